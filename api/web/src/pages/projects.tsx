// List and search of projects: the market's front page.

import { useEffect, useState } from "preact/hooks";

import { Activity } from "../activity.tsx";
import { paths, type Market, type Page, type Project, type ProjectSummary } from "../api.ts";
import { count, integer, short, titleOf } from "../format.ts";
import { routes } from "../links.ts";
import { request, touch, useAnswer } from "../live.ts";
import { Amount, Card, Empty, Failure, Head, Loading, Meter, Stats } from "../ui.tsx";
import { Doing, StatusBadge } from "../windows.tsx";

const STATES = ["running", "bonding", "finished", "halted", "closed"];

export function ProjectsPage() {
  const [search, setSearch] = useState("");
  const [status, setStatus] = useState("");
  const [asked, setAsked] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => setAsked(search.trim()), 250);
    return () => clearTimeout(timer);
  }, [search]);
  const path = paths.projects(asked, status);
  const { data, error, loading } = useAnswer<Page<ProjectSummary>>(path);
  return (
    <>
      <Head
        title="Projects"
        lead="Sponsors fund models, trainers are paid for what their updates contribute, and the contract decides each round from one proven matrix."
      />
      <Totals />
      <form class="filters" role="search" onSubmit={(event) => event.preventDefault()}>
        <label>
          <span class="hidden">Search projects</span>
          <input type="search" placeholder="Search titles, summaries, ids, addresses" value={search} onInput={(event) => setSearch(event.currentTarget.value)} />
        </label>
        <div class="segments" role="group" aria-label="Status">
          <button type="button" aria-pressed={status === ""} onClick={() => setStatus("")}>
            All
          </button>
          {STATES.map((name) => (
            <button key={name} type="button" aria-pressed={status === name} onClick={() => setStatus(name)}>
              {name}
            </button>
          ))}
        </div>
      </form>
      {IDENTIFIER.test(asked) && <Named text={asked} />}
      {error && !data && <Failure error={error} retry={() => touch()} />}
      {loading && <Loading lines={6} />}
      {data && !data.items.length && !IDENTIFIER.test(asked) && (
        <div class="card">
          {asked || status ? (
            <Empty title="Nothing found">No project matches. Try other words or another status.</Empty>
          ) : (
            <Empty title="No projects yet">
              The first one is yours to open: <a href={routes.open()}>open a project</a>.
            </Empty>
          )}
        </div>
      )}
      {data && data.items.length > 0 && <List key={path} first={data} path={path} />}
      {data && data.items.length > 0 && !asked && !status && (
        <div class="after">
          <Card title="Latest in the market">
            <Activity />
          </Card>
        </div>
      )}
    </>
  );
}

/** An address, or the first digits of a project's id. */
const IDENTIFIER = /^0x[0-9a-f]{4,64}$/i;

/** Shows what has an address or id that somebody searched for. */
function Named({ text }: { text: string }) {
  const { data: project, error, loading } = useAnswer<Project>(paths.project(text));
  const address = text.length === 42;
  if (loading) return <Loading lines={2} />;
  if (project) {
    return (
      <ul class="listing plain" aria-label="Project with this id">
        <Item item={project} />
      </ul>
    );
  }
  return (
    <div class="card">
      {address ? (
        <Empty title="An address">
          <a href={routes.account(text)}>See what {short(text)} has in the market</a>.
        </Empty>
      ) : (
        <Empty title="Nothing found">{error?.message}</Empty>
      )}
    </div>
  );
}

/** Shows what the whole market holds and has paid. */
function Totals() {
  const { data } = useAnswer<Market>(paths.market());
  const [main, ...others] = data?.totals ?? [];
  if (!data || !main) return null;
  const { token } = main;
  const also = others.length ? `and ${count(others.length, "other token")}` : undefined;
  const all = Object.values(data.projects).reduce((sum, one) => sum + one, 0);
  return (
    <div class="before">
      <Stats
        items={[
          { label: "Running now", value: <>{integer(data.projects["running"] ?? 0)} <small>of {count(all, "project")}</small></> },
          { label: "In escrow", value: <Amount units={main.escrow} token={token} />, note: also },
          { label: "Paid to trainers", value: <Amount units={main.paid} token={token} />, note: also },
          { label: "Slashed", value: <Amount units={main.slashed} token={token} />, note: also },
          { label: "Rounds settled", value: integer(data.settled_rounds), note: `by updates of ${count(data.trainers, "trainer")}` },
        ]}
      />
    </div>
  );
}

/** Shows the first page, which stays current, and those that were asked for after it. */
function List({ first, path }: { first: Page<ProjectSummary>; path: string }) {
  const [more, setMore] = useState<ProjectSummary[]>([]);
  const [cursor, setCursor] = useState<string | null>();
  const next = cursor === undefined ? first.next : cursor;
  const load = async () => {
    const page = await request<Page<ProjectSummary>>(`${path}&cursor=${encodeURIComponent(next ?? "")}`);
    setMore([...more, ...page.items]);
    setCursor(page.next);
  };
  const known = new Set(first.items.map((item) => item.id));
  const items = [...first.items, ...more.filter((item) => !known.has(item.id))];
  return (
    <>
      <ul class="listing plain" aria-label="Projects">
        {items.map((item) => (
          <Item key={item.id} item={item} />
        ))}
      </ul>
      {next && (
        <p class="more">
          <button type="button" class="button" onClick={() => void load()}>
            More projects
          </button>
        </p>
      )}
    </>
  );
}

function Item({ item }: { item: ProjectSummary }) {
  return (
    <li>
      <a href={routes.project(item.id)}>
        <div>
          <h2>
            {titleOf(item)} <StatusBadge status={item.status} />
          </h2>
          <span class="label">{item.summary}</span>
        </div>
        <div>
          <span class="label">Reward a round</span>
          <span class="value">
            <Amount units={item.reward} token={item.token} />
          </span>
        </div>
        <div>
          <span class="label">{item.phase === "ended" ? "Places" : "Trainers"}</span>
          <span class="value">{item.phase === "ended" ? item.capacity : `${item.active} of ${item.capacity}`}</span>
        </div>
        <div>
          <span class="label">
            {item.settled_rounds} of {count(item.rounds, "round")} · <Doing project={item} />
          </span>
          <Meter share={item.settled_rounds / item.rounds} label={`${item.settled_rounds} of ${item.rounds} rounds paid`} />
        </div>
      </a>
    </li>
  );
}
