// Tell what happened lately, event by event, in words.

import type { ComponentChildren } from "preact";

import { paths, type MarketEvent, type Page } from "./api.ts";
import { ago, short, titleOf } from "./format.ts";
import { routes } from "./links.ts";
import { useAnswer, useNow } from "./live.ts";
import { Amount, Empty, Loading, Transaction, type Token } from "./ui.tsx";

/** What an event says, with who did it in front where somebody did. */
const words: Record<string, (event: MarketEvent) => string> = {
  ProjectOpened: () => "opened the project",
  Bonded: () => "The bond was posted",
  Joined: () => "joined",
  Committed: (event) => `committed in round ${event.round}`,
  CommitsClosed: (event) => `The commits of round ${event.round} were closed`,
  Revealed: (event) => `revealed in round ${event.round}`,
  Settled: (event) => `settled round ${event.round}`,
  RoundFailed: (event) => `Round ${event.round} failed`,
  Deactivated: () => "was deactivated",
  LeaveRequested: () => "is leaving",
  Left: () => "left with its stake",
  ProjectEnded: () => "The project ended",
  ProjectClosed: () => "The sponsor took back what was left",
  Withdrawn: () => "withdrew",
};

/** Lists the latest events of a project, or of the whole market. */
export function Activity({ project, token }: { project?: string; token?: Token }) {
  const now = useNow();
  const { data, error } = useAnswer<Page<MarketEvent>>(paths.recent(project));
  if (error && !data) return <Empty title="No events to show">{error.message}</Empty>;
  if (!data) return <Loading />;
  if (!data.items.length) return <Empty title="Nothing happened yet" />;
  return (
    <ol class="activity plain">
      {data.items.map((event) => (
        <li key={event.id}>
          <span>
            <Told event={event} />
            {event.amount !== null && token && (
              <>
                {" "}
                <Amount units={event.amount} token={token} />
              </>
            )}
            {!project && (
              <>
                {" · "}
                <a href={routes.project(event.project)}>{titleOf({ id: event.project, title: event.title })}</a>
              </>
            )}
          </span>
          <span class="soft small">
            {ago(now - event.at)} · <Transaction hash={event.transaction} />
          </span>
        </li>
      ))}
    </ol>
  );
}

function Told({ event }: { event: MarketEvent }): ComponentChildren {
  const text = words[event.name]?.(event) ?? event.name;
  const impersonal = /^[A-Z]/.test(text);
  return (
    <>
      {!impersonal && event.account && (
        <>
          <a href={routes.account(event.account)}>
            <code title={event.account}>{short(event.account)}</code>
          </a>{" "}
        </>
      )}
      {text}
    </>
  );
}
