// Why was I paid this: each number of a trainer's round, with its formula in words.

import { paths, type Explanation, type Project, type Step } from "../api.ts";
import { amount, count, integer, short, titleOf } from "../format.ts";
import { routes } from "../links.ts";
import { touch, useAnswer } from "../live.ts";
import { Amount, Card, Failure, Head, Loading, NotFound, Notice, Stats, Table, TrainerName, Transaction } from "../ui.tsx";
import { UpdateBadge } from "./round.tsx";

/** Shows amounts in tokens; the API gives them in the smallest unit. */
function shown(step: Step, { token }: Explanation): string {
  return step.shown.endsWith(" units") ? `${amount(step.value, token.decimals)} ${token.symbol}` : step.shown;
}

export function ExplainPage({ id, round, trainer }: { id: string; round: string; trainer: string }) {
  const { data: project, error: lost } = useAnswer<Project>(paths.project(id));
  const { data: found, error } = useAnswer<Explanation>(paths.explain(id, round, trainer));
  const wrong = lost ?? error;
  if (wrong && wrong.status >= 400 && wrong.status < 500) return <NotFound what="payment" />;
  if (wrong && !(project && found)) return <Failure error={wrong} retry={() => touch()} />;
  if (!project || !found) return <Loading lines={8} />;
  return (
    <>
      <Head
        title="Why was I paid this?"
        badge={<UpdateBadge update={{ status: found.status, reason: null }} />}
        crumbs={[
          ["Projects", routes.projects()],
          [titleOf(project), routes.project(id)],
          [`Round ${found.round}`, routes.round(id, found.round)],
          [short(found.trainer), routes.trainer(id, found.trainer)],
        ]}
        lead={found.verdict}
      />
      <div class="stack">
        <Stats
          items={[
            { label: "Share", value: <Amount units={found.share} token={found.token} />, note: <>of a pot of <Amount units={found.pot} token={found.token} /></> },
            {
              label: "Distance rank",
              value: found.distance_rank === null ? "–" : <>{found.distance_rank} <small>of {found.updates}</small></>,
              note: "1 is the closest to the others",
            },
            { label: "Weight", value: <>{integer(found.weight)} <small>of 65,536</small></>, note: "in the new model" },
            { label: "Slashed", value: <Amount units={found.slashed} token={found.token} />, note: `${count(found.strikes, "strike")} now` },
            { label: "Stake after", value: <Amount units={found.stake} token={found.token} /> },
          ]}
        />
        <Card title="Step by step" aside={found.rule ?? undefined}>
          <ol class="steps plain">
            {found.steps.map((step) => (
              <li key={step.name}>
                <div>
                  <h3>{step.name.replaceAll("_", " ")}</h3>
                  <p class="words">{step.formula}</p>
                </div>
                <div class="result">
                  <strong>{shown(step, found)}</strong>
                  {step.value !== step.shown && <code class="soft">{step.value}</code>}
                </div>
              </li>
            ))}
          </ol>
        </Card>
        <Card title="Inner products with every update of the round" aside="in steps squared" flush>
          <Table
            caption="Inner products of the update with every update of the round"
            rows={Object.entries(found.products)}
            id={([address]) => address}
            columns={[
              { name: "With", cell: ([address]) => <>{address === found.trainer ? "itself" : <TrainerName project={id} address={address} />}</> },
              { name: "Inner product", number: true, cell: ([, product]) => integer(product) },
            ]}
          />
        </Card>
        {found.transaction && (
          <Notice tone="plain">
            All of this follows from the matrix in the settlement <Transaction hash={found.transaction} />; anybody can compute it
            again with <code>tribute rewards --explain</code>.
          </Notice>
        )}
      </div>
    </>
  );
}
