// Tell what happened lately, event by event, in words.

import type { ComponentChildren } from "preact";
import { useRef, useState } from "preact/hooks";

import { paths, type MarketEvent, type Page } from "./api.ts";
import { ago, short, titleOf } from "./format.ts";
import { routes } from "./links.ts";
import { useAnswer, useNow } from "./live.ts";
import { Amount, Empty, Loading, Transaction, type Token } from "./ui.tsx";

/** Tells whether an event moved money. */
function moved(event: MarketEvent): boolean {
  return event.amount !== null && event.amount !== "0";
}

/** What an event says, with who did it in front where somebody did. */
const words: Record<string, (event: MarketEvent) => string> = {
  ProjectOpened: () => "opened the project",
  Bonded: () => "The bond was posted",
  Joined: () => "joined",
  Committed: (event) => `committed in round ${event.round}`,
  CommitsClosed: (event) => `The commits of round ${event.round} were closed`,
  Revealed: (event) => `revealed in round ${event.round}`,
  Settled: (event) => `settled round ${event.round}`,
  RoundFailed: (event) => `Round ${event.round} failed${moved(event) ? "; the bond lost" : ""}`,
  Deactivated: () => "was deactivated",
  LeaveRequested: () => "is leaving",
  Left: () => "left with its stake",
  ProjectEnded: () => "The project ended",
  ProjectClosed: () => "The sponsor took back what was left",
  Withdrawn: () => "withdrew",
};

const FEW = 8;
const MANY = 200;

/** Lists the latest events of a project, or of the whole market. */
export function Activity({ project, token }: { project?: string; token?: Token }) {
  const now = useNow();
  const [limit, setLimit] = useState(FEW);
  const { data: asked, error } = useAnswer<Page<MarketEvent>>(paths.recent(limit, project));
  // What was there stays until the longer list has come.
  const before = useRef(asked);
  if (asked) before.current = asked;
  const data = asked ?? before.current;
  if (error && !data) return <Empty title="No events to show">{error.message}</Empty>;
  if (!data) return <Loading />;
  if (!data.items.length) return <Empty title="Nothing happened yet" />;
  return (
    <>
      <ol class="activity plain">
        {data.items.map((event) => (
          <li key={event.id}>
            <span>
              <Told event={event} />
              {event.amount !== null && moved(event) && token && (
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
      {data.next !== null && limit < MANY && (
        <p class="more">
          <button type="button" class="button" onClick={() => setLimit(Math.min(MANY, 5 * limit))}>
            Earlier events
          </button>
        </p>
      )}
    </>
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
