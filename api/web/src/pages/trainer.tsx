// A trainer in one project: what to do next, earnings, scores by round, stake and strikes.

import { ActButton, useAddress } from "../account.tsx";
import { paths, type Action, type Project, type Trainer, type Update } from "../api.ts";
import { Chart } from "../charts.tsx";
import { exact, moment } from "../csv.ts";
import { amount, duration, integer, percent, plain, short, span, titleOf } from "../format.ts";
import { routes } from "../links.ts";
import { touch, useAll, useAnswer, useNow, useUntil } from "../live.ts";
import { Amount, Card, Cid, Download, Empty, Failure, Hash, Head, Loading, NotFound, Notice, Stats, Table } from "../ui.tsx";
import { MembershipBadge } from "./project.tsx";
import { UpdateBadge } from "./round.tsx";

export function TrainerPage({ id, address }: { id: string; address: string }) {
  const { data: project, error: lost } = useAnswer<Project>(paths.project(id));
  const { data: trainer, error } = useAnswer<Trainer>(paths.trainer(id, address));
  const { data: updates } = useAll<Update>(paths.updates(id, address));
  const own = useAddress()?.toLowerCase() === address.toLowerCase();
  if (lost && lost.status >= 400 && lost.status < 500) return <NotFound what="project" />;
  if (lost && !project) return <Failure error={lost} retry={() => touch()} />;
  if (error?.status === 404 && project) return <Stranger project={project} address={address} own={own} />;
  if (error?.status === 422) return <NotFound what="trainer" />;
  if (error && !trainer) return <Failure error={error} retry={() => touch()} />;
  if (!project || !trainer) return <Loading lines={8} />;
  const { token } = trainer;
  return (
    <>
      <Head
        title={own ? "Your place" : `Trainer ${short(trainer.address)}`}
        badge={<MembershipBadge trainer={trainer} />}
        crumbs={[
          ["Projects", routes.projects()],
          [titleOf(project), routes.project(id)],
        ]}
        actions={own && <Leave project={project} trainer={trainer} />}
        meta={
          <span>
            <Hash text={trainer.address} label="the trainer's address" href={routes.account(trainer.address)} head={10} tail={8} />
          </span>
        }
      />
      <div class="stack">
        <NextSteps trainer={trainer} project={project} own={own} />
        <Stats
          items={[
            { label: "Earned", value: <Amount units={trainer.earned} token={token} />, note: <>{amount(trainer.withdrawn, token.decimals)} withdrawn</> },
            { label: "To withdraw", value: <Amount units={trainer.credit} token={token} /> },
            { label: "Stake", value: <Amount units={trainer.stake} token={token} />, note: <>{amount(trainer.slashed, token.decimals)} slashed</> },
            { label: "Strikes", value: trainer.strikes, note: "one goes away with each counted round" },
            ...(trainer.spent_milli ? [{ label: "Privacy spent", value: `ε ${trainer.spent_milli / 1000}` }] : []),
            {
              label: "Rounds counted",
              value: <>{trainer.counted} <small>of {trainer.commits}</small></>,
              note: `${trainer.outliers} times an outlier`,
            },
          ]}
        />
        <Card title="Earnings by round">
          <Earnings updates={updates} trainer={trainer} />
        </Card>
        <Card title="Score history" aside={updates?.length ? <HistoryFile trainer={trainer} updates={updates} /> : undefined} flush>
          <History project={project} updates={updates} />
        </Card>
      </div>
    </>
  );
}

/** Offers to leave, where that is not already the next step. */
function Leave({ project, trainer }: { project: Project; trainer: Trainer }) {
  if (trainer.membership !== "active" || trainer.next.some((action) => action.name === "leave")) return null;
  return (
    <ActButton kind="leave" body={(sender) => ({ sender, project: project.id })}>
      Leave the project
    </ActButton>
  );
}

/** Shows what an account can do that never joined. */
function Stranger({ project, address, own }: { project: Project; address: string; own: boolean }) {
  const free = project.status === "running" && project.active < project.capacity;
  return (
    <>
      <Head title={own ? "Your place" : `Account ${short(address)}`} crumbs={[["Projects", routes.projects()], [titleOf(project), routes.project(project.id)]]} />
      <div class="card state">
        <h2>{own ? "You have not joined" : "Not a trainer of this project"}</h2>
        <p>{free ? "There is a free place." : "No place is free at the moment."}</p>
        {own && free && (
          <div class="actions">
            <ActButton kind="join" body={(sender) => ({ sender, project: project.id })} primary>
              Join for {amount(project.stake, project.token.decimals)} {project.token.symbol}
            </ActButton>
          </div>
        )}
      </div>
    </>
  );
}

function NextSteps({ trainer, project, own }: { trainer: Trainer; project: Project; own: boolean }) {
  const now = useNow();
  const actions = trainer.next;
  useUntil(actions[0]?.until, project.id);
  const tokens = (units: string) => `${amount(units, project.token.decimals)} ${project.token.symbol}`;
  const body = (sender: string) => ({ sender, project: project.id });
  const button = (action: Action) => {
    if (!own) return null;
    switch (action.name) {
      case "withdraw":
        return (
          <ActButton kind="withdraw" body={body} primary>
            Withdraw {tokens(trainer.credit)}
          </ActButton>
        );
      case "join":
      case "rejoin":
        return (
          <ActButton kind="join" body={body} primary>
            Join again
          </ActButton>
        );
      case "leave":
        return (
          <ActButton kind="leave" body={body} primary>
            Leave
          </ActButton>
        );
      case "release":
        return (
          <ActButton kind="release" body={body} primary>
            Release {tokens(trainer.stake)}
          </ActButton>
        );
      default:
        return null;
    }
  };
  if (!actions.length) return <Notice tone="plain">Nothing to do: everything is settled and withdrawn.</Notice>;
  return (
    <section aria-label="What to do next" class="stack tight">
      {actions.map((action) => (
        <Notice key={action.name} tone={action.urgent ? "accent" : "plain"}>
          <div class="next">
            <div>
              <strong>{action.text}</strong>
              {action.until > 0 && <span class="soft"> {duration(action.until - now)} left</span>}
              {LEAVING.includes(action.name) && (trainer.membership !== "active" || project.phase === "ended") && (
                <p class="soft small">{wayOut(action, project, tokens(trainer.stake))}</p>
              )}
              {action.name === "train" && (
                <p class="soft small">
                  <code>tribute trainer run {short(project.id, 10, 0).replace("…", "")}</code> trains, commits and reveals by itself.
                </p>
              )}
            </div>
            {button(action)}
          </div>
        </Notice>
      ))}
    </section>
  );
}

/** Steps of the way out, `wait` while the stake is not free. */
const LEAVING: Action["name"][] = ["leave", "wait", "release"];

/** Says what the way out pays, and when. */
function wayOut(action: Action, project: Project, stake: string): string {
  if (action.name === "wait") return `${stake} can be released then, or as soon as the project has ended.`;
  if (action.name === "leave" && project.status === "running") {
    return `${stake} are free ${span(project.unbonding_delay)} after you have left, or as soon as the project has ended.`;
  }
  return `${stake} become your credit at once, which you then withdraw.`;
}

function Earnings({ updates, trainer }: { updates: Update[] | undefined; trainer: Trainer }) {
  if (!updates) return <Loading />;
  const scored = updates.filter((update) => ["counted", "outlier", "excluded"].includes(update.status)).sort((a, b) => a.round - b.round);
  if (!scored.length) return <Empty title="Nothing scored yet">Shares show here after the first settlement.</Empty>;
  const tokens = (units: string) => Number(units) / 10 ** trainer.token.decimals;
  return (
    <Chart
      label={`What the trainer earned and lost by round, in ${trainer.token.symbol}`}
      kind="stacked"
      rounds={scored.map((update) => update.round)}
      series={[
        { name: "share", colour: "--s0", values: scored.map((update) => tokens(update.share)) },
        { name: "slashed", colour: "--s5", values: scored.map((update) => tokens(update.slashed)) },
      ]}
      format={plain}
    />
  );
}

function HistoryFile({ trainer, updates }: { trainer: Trainer; updates: Update[] }) {
  const { symbol, decimals } = trainer.token;
  return (
    <Download
      name={`earnings-${trainer.address}`}
      header={["round", "state", `share ${symbol}`, `slashed ${symbol}`, `stake ${symbol}`, "strikes", "weight of 65536", "length in steps", "committed", "revealed", "commit transaction", "reveal transaction", "content"]}
      rows={() =>
        updates.map((one) => [
          one.round,
          one.status,
          ...[one.share, one.slashed, one.stake].map((units) => exact(units, decimals)),
          ...[one.strikes, one.weight, one.norm],
          ...[moment(one.committed_at), moment(one.revealed_at)],
          ...[one.commit_transaction, one.reveal_transaction, one.cid],
        ])
      }
    />
  );
}

function History({ project, updates }: { project: Project; updates: Update[] | undefined }) {
  if (!updates) return <Loading />;
  if (!updates.length) return <Empty title="No update yet">Each committed round shows here.</Empty>;
  return (
    <Table
      caption="The trainer's updates, newest first"
      rows={[...updates].sort((a, b) => b.round - a.round)}
      id={(row) => row.round}
      columns={[
        { name: "Round", cell: (row) => <a href={routes.round(project.id, row.round)}>Round {row.round}</a> },
        { name: "State", cell: (row) => <UpdateBadge update={row} /> },
        { name: `Share, ${project.token.symbol}`, number: true, cell: (row) => <Amount units={row.share} token={project.token} bare /> },
        { name: "Length, steps", number: true, cell: (row) => (row.norm ? integer(row.norm) : "–") },
        { name: "Weight", number: true, cell: (row) => percent(row.weight / 65_536) },
        { name: "Slashed", number: true, cell: (row) => <Amount units={row.slashed} token={project.token} bare /> },
        { name: "Strikes", number: true, cell: (row) => row.strikes },
        { name: "Stake", number: true, cell: (row) => <Amount units={row.stake} token={project.token} bare /> },
        { name: "Content", cell: (row) => (row.cid ? <Cid text={row.cid} /> : "–") },
        {
          name: "Explanation",
          cell: (row) =>
            ["counted", "outlier", "excluded", "root", "aside"].includes(row.status) ? (
              <a href={routes.explain(project.id, row.round, row.trainer)}>
                Why<span class="hidden"> was this paid in round {row.round}</span>?
              </a>
            ) : (
              "–"
            ),
        },
      ]}
    />
  );
}
