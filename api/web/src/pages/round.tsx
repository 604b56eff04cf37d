// One round: its windows, what each update brought, the matrix that decided it, the settlement.

import type { ComponentChildren } from "preact";

import { paths, type Project, type RoundDetail, type Trainer, type Update } from "../api.ts";
import { ago, count, integer, percent, titleOf } from "../format.ts";
import { DENSE_FROM, Gram, type GramRow } from "../gram.tsx";
import { routes } from "../links.ts";
import { touch, useAll, useAnswer, useNow } from "../live.ts";
import { Amount, Badge, Card, Cid, Empty, Facts, Failure, Hash, Head, Loading, Meter, NotFound, Stats, Table, TrainerName, Transaction, type Tone } from "../ui.tsx";
import { ProofBadge, Windows } from "../windows.tsx";
import { RoundBadge, coloursOf } from "./project.tsx";

export function RoundPage({ id, round: number }: { id: string; round: string }) {
  const { data: project, error: lost } = useAnswer<Project>(paths.project(id));
  const { data: round, error } = useAnswer<RoundDetail>(paths.round(id, number));
  const { data: trainers } = useAll<Trainer>(paths.trainers(id));
  const wrong = lost ?? error;
  if (wrong && wrong.status >= 400 && wrong.status < 500) return <NotFound what="round" />;
  if (wrong && !(project && round)) return <Failure error={wrong} retry={() => touch()} />;
  if (!project || !round) return <Loading lines={8} />;
  const colours = coloursOf(trainers);
  return (
    <>
      <Head
        title={`Round ${round.number}`}
        badge={
          <>
            <RoundBadge round={round} />
            {round.status === "settled" && <ProofBadge proof={round.proof} settled />}
          </>
        }
        crumbs={[
          ["Projects", routes.projects()],
          [titleOf(project), routes.project(id)],
        ]}
        actions={<Neighbours project={project} number={round.number} />}
      />
      <div class="stack">
        <Figures project={project} round={round} />
        {round.status === "open" && (
          <Card title="Windows">
            <Windows project={project} round={round} />
          </Card>
        )}
        <Card title="Updates" aside={count(round.updates.length, "update")} flush>
          <Updates project={project} round={round} colours={colours} />
        </Card>
        <div class={round.status === "open" || (round.gram?.trainers.length ?? 0) >= DENSE_FROM ? "stack" : "lopsided"}>
          <Card title="Gram matrix" aside="how the updates point, pair by pair">
            <Matrix round={round} colours={colours} />
          </Card>
          {round.status === "settled" && (
            <Card title="Settlement">
              <Settlement project={project} round={round} />
            </Card>
          )}
          {round.status === "failed" && (
            <Card title="Why it failed">
              <Failed project={project} round={round} />
            </Card>
          )}
        </div>
      </div>
    </>
  );
}

function Neighbours({ project, number }: { project: Project; number: number }) {
  return (
    <>
      {number > 1 && (
        <a class="button" href={routes.round(project.id, number - 1)}>
          ← Round {number - 1}
        </a>
      )}
      {number < project.round && (
        <a class="button" href={routes.round(project.id, number + 1)}>
          Round {number + 1} →
        </a>
      )}
    </>
  );
}

function Figures({ project, round }: { project: Project; round: RoundDetail }) {
  const { token } = project;
  return (
    <Stats
      items={[
        {
          label: "Updates",
          value: (
            <>
              {round.reveals} <small>of {round.active} trainers</small>
            </>
          ),
        },
        { label: "Paid", value: <Amount units={round.paid} token={token} /> },
        { label: "Outliers", value: round.outliers, note: round.excluded ? `${round.excluded} left out by the aggregator` : undefined },
        { label: "Slashed", value: <Amount units={round.slashed} token={token} /> },
        { label: "Accuracy after", value: round.accuracy === null ? "–" : percent(round.accuracy) },
      ]}
    />
  );
}

const states: Record<Update["status"], [Tone, string]> = {
  committed: ["plain", "committed"],
  revealed: ["accent", "revealed"],
  counted: ["good", "counted"],
  outlier: ["bad", "outlier"],
  excluded: ["warn", "left out"],
  root: ["accent", "root"],
  aside: ["warn", "root, set aside"],
  void: ["plain", "void"],
};

export function UpdateBadge({ update }: { update: Pick<Update, "status" | "reason"> }) {
  const [tone, text] = states[update.status];
  return (
    <Badge tone={tone}>
      {text}
      {update.reason && `: ${update.reason.replaceAll("_", " ")}`}
    </Badge>
  );
}

function Updates({ project, round, colours }: { project: Project; round: RoundDetail; colours: Map<string, string> }) {
  if (!round.updates.length) return <Empty title="No commits yet">Updates show here as they are committed and revealed.</Empty>;
  const settled = round.status === "settled";
  return (
    <Table
      caption={`Updates of round ${round.number}`}
      rows={round.updates}
      id={(row) => row.trainer}
      columns={[
        { name: "Trainer", cell: (row) => <TrainerName project={project.id} address={row.trainer} colour={colours.get(row.trainer)} /> },
        { name: "State", cell: (row) => <UpdateBadge update={row} /> },
        { name: `Share, ${project.token.symbol}`, number: true, cell: (row) => <Amount units={row.share} token={project.token} bare /> },
        { name: "Length, steps", number: true, cell: (row) => (settled ? integer(row.norm) : "–") },
        {
          name: "Weight",
          cell: (row) => (
            <span class="share">
              <Meter share={row.weight / 65_536} label={percent(row.weight / 65_536)} colour={colours.get(row.trainer) ?? "--rest"} />
              <span aria-hidden="true">{percent(row.weight / 65_536)}</span>
            </span>
          ),
        },
        { name: "Slashed", number: true, cell: (row) => <Amount units={row.slashed} token={project.token} bare /> },
        { name: "Strikes", number: true, cell: (row) => row.strikes },
        { name: "Content", cell: (row) => (row.cid ? <Cid text={row.cid} /> : "–") },
        {
          name: "Explanation",
          cell: (row) =>
            settled ? (
              <a href={routes.explain(project.id, round.number, row.trainer)}>
                Why<span class="hidden"> was {row.trainer} paid this</span>?
              </a>
            ) : (
              "–"
            ),
        },
      ]}
    />
  );
}

/** Labels a row of the matrix that decided otherwise than by its own products, or was decided about. */
function mark(status: Update["status"]): GramRow["mark"] {
  if (status === "outlier") return "outlier";
  return status === "root" || status === "aside" ? "root" : "";
}

function Matrix({ round, colours }: { round: RoundDetail; colours: Map<string, string> }) {
  if (round.status === "failed") return <Empty title="Nothing was scored">The round failed; its money stays in escrow for another one.</Empty>;
  if (!round.gram) return <Empty title="Not settled yet">The matrix of all inner products comes with the settlement.</Empty>;
  const marks = new Map(round.updates.map((update) => [update.trainer, mark(update.status)]));
  return (
    <Gram
      rows={round.gram.trainers.map((trainer) => ({ trainer, colour: colours.get(trainer) ?? "--rest", mark: marks.get(trainer) ?? "" }))}
      matrix={round.gram.matrix}
      cosines={round.gram.cosines}
    />
  );
}

/** Says why a round was not paid: by the contract's rules there are three reasons. */
function failure(project: Project, round: RoundDetail): string {
  if (round.updates.some((update) => update.reason)) return "The aggregator left out so many updates that too few remained.";
  if (round.reveals < project.min_updates) return `${count(round.reveals, "update")} came, ${project.min_updates} are needed.`;
  return "Nobody settled in time.";
}

function Failed({ project, round }: { project: Project; round: RoundDetail }) {
  const now = useNow();
  const excluded = round.updates.some((update) => update.reason);
  const lost = BigInt(round.bond_lost) > 0n;
  return (
    <Facts
      items={[
        ["Reason", failure(project, round)],
        ["Closed", `${ago(now - round.closed_at)}, in block ${integer(round.block)}`],
        ["Transaction", round.transaction ? <Transaction hash={round.transaction} /> : "–"],
        ["Bond lost", <Amount units={round.bond_lost} token={project.token} />],
        ...(lost
          ? ([
              ["Lost by", <Hash text={project.aggregator} label="the aggregator's address" href={routes.account(project.aggregator)} />],
              [
                "Went to",
                excluded ? (
                  <Hash text={project.slash_sink} label="the sink's address" href={routes.account(project.slash_sink)} />
                ) : (
                  `the ${count(round.reveals, "trainer")} who had revealed, in equal parts`
                ),
              ],
            ] as [string, ComponentChildren][])
          : []),
      ]}
    />
  );
}

function Settlement({ project, round }: { project: Project; round: RoundDetail }) {
  const now = useNow();
  return (
    <Facts
      items={[
        ["Closed", `${ago(now - round.closed_at)}, in block ${integer(round.block)}`],
        ["Transaction", round.transaction ? <Transaction hash={round.transaction} /> : "–"],
        ["Settled by", round.settler ? <Hash text={round.settler} label="the settler's address" href={routes.account(round.settler)} /> : "–"],
        ["Fee", <Amount units={round.fee} token={project.token} />],
        ["Matrix", <><ProofBadge proof={round.proof} settled /> by {round.verifier ?? "an unknown verifier"}</>],
        ["New model", round.model_cid ? <Cid text={round.model_cid} /> : "–"],
      ]}
    />
  );
}
