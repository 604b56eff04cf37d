// One project: money, the live round, who contributed, every round, the terms.

import { useMemo } from "preact/hooks";

import { Activity } from "../activity.tsx";
import { ActButton, useAddress } from "../account.tsx";
import { paths, type Evaluation, type Model, type Page, type Project, type Reward, type Round, type Trainer } from "../api.ts";
import { Chart, PALETTE, colour, type Series } from "../charts.tsx";
import { exact, moment } from "../csv.ts";
import { ago, amount, count, duration, integer, percent, plain, portion, short, span, titleOf } from "../format.ts";
import { routes } from "../links.ts";
import { touch, useAll, useAnswer, useNow } from "../live.ts";
import { Amount, Badge, Card, Cid, Copy, Download, Empty, Facts, Failure, Hash, Head, Loading, Meter, NotFound, Stats, Table, TrainerName, Transaction } from "../ui.tsx";
import { ProofBadge, StatusBadge, Windows } from "../windows.tsx";
import { Part } from "./part.tsx";
import { Penalties } from "./penalties.tsx";

export function ProjectPage({ id }: { id: string }) {
  const { data: project, error } = useAnswer<Project>(paths.project(id));
  const { data: rounds } = useAll<Round>(paths.rounds(id));
  const { data: trainers } = useAll<Trainer>(paths.trainers(id));
  const { data: rewards } = useAll<Reward>(paths.rewards(id));
  const { data: evaluations } = useAll<Evaluation>(paths.evaluations(id));
  if (error?.status === 404 || error?.status === 422) return <NotFound what="project" />;
  if (error && !project) return <Failure error={error} retry={() => touch()} />;
  if (!project) return <Loading lines={8} />;
  const colours = coloursOf(trainers);
  const running = project.status === "running";
  return (
    <>
      <Top project={project} trainers={trainers} />
      <div class="stack">
        <Part project={project} />
        <Money project={project} />
        {project.phase !== "ended" && (
          <Card
            title={running && project.phase !== "joining" ? `Round ${project.round} now` : "Next round"}
            aside={running && <a href={routes.round(id, project.round)}>Round {project.round} in full</a>}
          >
            <Windows project={project} round={rounds?.find((round) => round.number === project.round)} />
          </Card>
        )}
        <div class="two">
          <Card title="Contribution by trainer" aside="shares of each round's pot">
            <Contributions project={project} trainers={trainers} rewards={rewards} />
          </Card>
          <Card title="Accuracy by round" aside="published by the sponsor">
            <Accuracy evaluations={evaluations} />
          </Card>
        </div>
        <Card
          title="Trainers"
          aside={
            <>
              {project.phase === "ended" ? trainers && `${trainers.length} took part` : `${project.active} of ${project.capacity} places taken`}
              {trainers?.length ? <TrainersFile project={project} trainers={trainers} /> : null}
            </>
          }
          flush
        >
          <Trainers project={project} trainers={trainers} colours={colours} />
        </Card>
        <Card
          title="Rounds"
          aside={
            rounds && (
              <>
                {count(rounds.length, "round")}, newest first
                {rounds.length > 0 && <RoundsFile project={project} rounds={rounds} />}
              </>
            )
          }
          flush
        >
          <Rounds project={project} rounds={rounds} />
        </Card>
        <Penalties project={project} />
        <Card title="Model" aside="as the chain names it">
          <LatestModel id={id} />
        </Card>
        <Card title="Activity" aside="the latest events on the chain">
          <Activity project={id} token={project.token} />
        </Card>
        <Card title="Terms" aside="fixed when the project opened">
          <Terms project={project} />
        </Card>
      </div>
    </>
  );
}

/**
 * Gives each trainer a colour, in the order in which they joined; where there are more trainers than
 * colours, the best paid come first.
 */
export function coloursOf(trainers: readonly Trainer[] = []): Map<string, string> {
  const order = [...trainers].sort((a, b) => a.joined_at - b.joined_at || (a.address < b.address ? -1 : 1));
  if (order.length > PALETTE) order.sort(byEarnings);
  return new Map(order.map((trainer, k) => [trainer.address, colour(k)]));
}

function byEarnings(a: Trainer, b: Trainer): number {
  const [first, second] = [BigInt(a.earned), BigInt(b.earned)];
  return first < second ? 1 : first > second ? -1 : 0;
}

function Top({ project, trainers }: { project: Project; trainers: Trainer[] | undefined }) {
  return (
    <Head
      title={titleOf(project)}
      badge={
        <>
          <StatusBadge status={project.status} />
          <ProofBadge proof={project.proof} settled={project.settled_rounds > 0} />
        </>
      }
      crumbs={[["Projects", routes.projects()]]}
      lead={project.summary}
      meta={
        <>
          <span>
            id <Hash text={project.id} label="the project's id" />
          </span>
          <span>
            sponsor <Hash text={project.sponsor} label="the sponsor's address" href={routes.account(project.sponsor)} />
          </span>
          <span>
            {project.model ?? "model unknown"} · {integer(project.dimension)} parameters
          </span>
        </>
      }
      actions={<Actions project={project} trainers={trainers} />}
    />
  );
}

/** Offers what the acting account could do here; the contract decides whether it may. */
function Actions({ project, trainers }: { project: Project; trainers: Trainer[] | undefined }) {
  const address = useAddress();
  const full = project.active >= project.capacity;
  const known = trainers?.find((trainer) => trainer.address.toLowerCase() === address?.toLowerCase());
  const inside = known !== undefined && known.membership !== "none";
  const open = project.status === "running" && !full && !inside;
  return (
    <>
      {address && known && (
        <a class="button" href={routes.trainer(project.id, address)}>
          Your place
        </a>
      )}
      {open && (
        <ActButton kind="join" body={(sender) => ({ sender, project: project.id })} primary>
          Join for {amount(project.stake, project.token.decimals)} {project.token.symbol}
        </ActButton>
      )}
    </>
  );
}

function Money({ project }: { project: Project }) {
  const now = useNow();
  const { token } = project;
  const left = project.rounds - project.settled_rounds;
  const lasts = left * (project.commit_window + project.reveal_window + project.settle_window);
  return (
    <Stats
      items={[
        {
          label: "In escrow",
          value: <Amount units={project.escrow} token={token} />,
          note: `of ${amount(project.budget, token.decimals)} funded`,
        },
        {
          label: "Spent",
          value: <Amount units={project.spent} token={token} />,
          note: `${amount(project.paid, token.decimals)} to trainers, ${amount(project.fees, token.decimals)} in fees`,
        },
        {
          label: "Rounds paid",
          value: (
            <>
              {project.settled_rounds} <small>of {project.rounds}</small>
            </>
          ),
          note: <Meter share={project.settled_rounds / project.rounds} label={`${project.settled_rounds} of ${project.rounds} rounds paid`} />,
        },
        {
          label: "Slashed",
          value: <Amount units={project.slashed} token={token} />,
          note: "from the stakes of outliers",
        },
        project.status === "running" || project.status === "bonding"
          ? { label: "Time left", value: <>{duration(lasts)}</>, note: "at most; windows end early" }
          : { label: "Ended", value: ago(now - project.last_at), note: `opened ${ago(now - project.opened_at)}` },
      ]}
    />
  );
}

function Contributions({ project, trainers, rewards }: { project: Project; trainers: Trainer[] | undefined; rewards: Reward[] | undefined }) {
  const drawn = useMemo(() => contributions(trainers ?? [], rewards ?? [], project.token.decimals), [trainers, rewards, project.token.decimals]);
  if (!rewards || !trainers) return <Loading />;
  if (!drawn.rounds.length) return <Empty title="No round paid yet">Shares show here after the first settlement.</Empty>;
  return (
    <Chart
      label="Share of each round's pot by trainer"
      kind="stacked"
      rounds={drawn.rounds}
      series={drawn.series}
      format={plain}
      legend={(series) => (series.name.startsWith("0x") ? <code>{short(series.name)}</code> : series.name)}
    />
  );
}

/** Returns what each trainer was paid by round, those beyond the palette added up. */
function contributions(trainers: Trainer[], rewards: Reward[], decimals: number): { rounds: number[]; series: Series[] } {
  const rounds = [...new Set(rewards.map((reward) => reward.round))].sort((a, b) => a - b);
  const at = new Map(rounds.map((round, i) => [round, i]));
  const names = [...coloursOf(trainers).keys()];
  const own = names.length > PALETTE ? PALETTE - 1 : PALETTE;
  const series = names.slice(0, own).map((name, k): Series => ({ name, colour: colour(k), values: rounds.map(() => 0) }));
  const rest: Series = { name: count(names.length - own, "other"), colour: "--rest", values: rounds.map(() => 0) };
  if (names.length > own) series.push(rest);
  const place = new Map(names.map((name, k) => [name, series[Math.min(k, own)] ?? rest]));
  for (const reward of rewards) {
    const values = place.get(reward.trainer)?.values;
    const i = at.get(reward.round);
    if (values && i !== undefined) values[i] = (values[i] ?? 0) + Number(reward.amount) / 10 ** decimals;
  }
  return { rounds, series };
}

function Accuracy({ evaluations }: { evaluations: Evaluation[] | undefined }) {
  if (!evaluations) return <Loading />;
  if (!evaluations.length) {
    return <Empty title="Nothing published">A sponsor can publish a signed accuracy of each model; this one has not.</Empty>;
  }
  const sorted = [...evaluations].sort((a, b) => a.settled_rounds - b.settled_rounds);
  const last = sorted.at(-1);
  return (
    <>
      <Chart
        label="Accuracy of the global model by round"
        kind="lines"
        rounds={sorted.map((one) => one.settled_rounds)}
        series={[{ name: "accuracy", colour: "--s0", values: sorted.map((one) => one.accuracy) }]}
        format={(value) => percent(value)}
      />
      {last && (
        <p class="soft small source">
          {percent(last.accuracy)} on {integer(last.samples)} samples of {last.data} after {count(last.settled_rounds, "round")},
          signed by <Hash text={last.signer} label="the signer's address" />
        </p>
      )}
    </>
  );
}

function Trainers({ project, trainers, colours }: { project: Project; trainers: Trainer[] | undefined; colours: Map<string, string> }) {
  if (!trainers) return <Loading />;
  if (!trainers.length && project.phase === "ended") return <Empty title="Nobody joined" />;
  if (!trainers.length) return <Empty title="Nobody has joined yet">The first places are free.</Empty>;
  const rows = [...trainers].sort(byEarnings);
  return (
    <Table
      caption={`Trainers of the project, by earnings in ${project.token.symbol}`}
      rows={rows}
      id={(row) => row.address}
      columns={[
        { name: "Trainer", cell: (row) => <TrainerName project={project.id} address={row.address} colour={colours.get(row.address)} /> },
        { name: `Earned, ${project.token.symbol}`, number: true, cell: (row) => <Amount units={row.earned} token={project.token} bare /> },
        { name: "Of all paid", cell: (row) => <Share part={row.earned} whole={project.paid} colour={colours.get(row.address)} /> },
        { name: "Counted", number: true, cell: (row) => `${row.counted} of ${row.reveals}` },
        { name: "Outlier", number: true, cell: (row) => row.outliers },
        { name: "Strikes", number: true, cell: (row) => row.strikes },
        { name: "Stake", number: true, cell: (row) => <Amount units={row.stake} token={project.token} bare /> },
        { name: "Slashed", number: true, cell: (row) => <Amount units={row.slashed} token={project.token} bare /> },
        { name: "State", cell: (row) => <MembershipBadge trainer={row} /> },
      ]}
    />
  );
}

function TrainersFile({ project, trainers }: { project: Project; trainers: Trainer[] }) {
  const { symbol, decimals } = project.token;
  return (
    <Download
      name="trainers"
      header={["trainer", `earned ${symbol}`, `slashed ${symbol}`, `stake ${symbol}`, `withdrawn ${symbol}`, "commits", "reveals", "counted", "outlier", "excluded", "strikes", "state", "joined"]}
      rows={() =>
        trainers.map((one) => [
          one.address,
          ...[one.earned, one.slashed, one.stake, one.withdrawn].map((units) => exact(units, decimals)),
          ...[one.commits, one.reveals, one.counted, one.outliers, one.excluded, one.strikes],
          one.membership,
          moment(one.joined_at),
        ])
      }
    />
  );
}

function RoundsFile({ project, rounds }: { project: Project; rounds: Round[] }) {
  const { symbol, decimals } = project.token;
  return (
    <Download
      name="rounds"
      header={["round", "state", "updates", "counted", "outliers", "excluded", `paid ${symbol}`, `fee ${symbol}`, `slashed ${symbol}`, `bond lost ${symbol}`, "accuracy", "closed", "block", "transaction", "model"]}
      rows={() =>
        rounds.map((one) => [
          one.number,
          one.status,
          ...[one.reveals, one.counted, one.outliers, one.excluded],
          ...[one.paid, one.fee, one.slashed, one.bond_lost].map((units) => exact(units, decimals)),
          one.accuracy,
          moment(one.closed_at),
          one.block || null,
          one.transaction,
          one.model_cid,
        ])
      }
    />
  );
}

function Share({ part, whole, colour: name }: { part: string; whole: string; colour: string | undefined }) {
  const all = BigInt(whole);
  const share = all ? Number((BigInt(part) * 10_000n) / all) / 10_000 : 0;
  return (
    <span class="share">
      <Meter share={share} label={portion(part, whole)} {...(name ? { colour: name } : {})} />
      <span aria-hidden="true">{portion(part, whole)}</span>
    </span>
  );
}

export function MembershipBadge({ trainer }: { trainer: Trainer }) {
  const tone = { none: "plain", active: "good", leaving: "warn", inactive: "bad" } as const;
  const text = { none: "left", active: "active", leaving: "leaving", inactive: "inactive" };
  return <Badge tone={tone[trainer.membership]}>{text[trainer.membership]}</Badge>;
}

export function RoundBadge({ round }: { round: Round }) {
  const tone = { open: "accent", settled: "good", failed: "bad" } as const;
  return <Badge tone={tone[round.status]}>{round.status}</Badge>;
}

function Rounds({ project, rounds }: { project: Project; rounds: Round[] | undefined }) {
  const now = useNow();
  if (!rounds) return <Loading />;
  if (!rounds.length) return <Empty title="No round yet">The first one opens when the bond is posted.</Empty>;
  const rows = [...rounds].sort((a, b) => b.number - a.number);
  return (
    <Table
      caption="Rounds of the project, newest first"
      rows={rows}
      id={(row) => row.number}
      columns={[
        { name: "Round", cell: (row) => <a href={routes.round(project.id, row.number)}>Round {row.number}</a> },
        { name: "State", cell: (row) => <RoundBadge round={row} /> },
        { name: "Updates", number: true, cell: (row) => `${row.reveals} of ${row.active}` },
        { name: "Outliers", number: true, cell: (row) => row.outliers },
        { name: "Accuracy", number: true, cell: (row) => (row.accuracy === null ? "–" : percent(row.accuracy)) },
        { name: `Paid, ${project.token.symbol}`, number: true, cell: (row) => <Amount units={row.paid} token={project.token} bare /> },
        { name: "Slashed", number: true, cell: (row) => <Amount units={row.slashed} token={project.token} bare /> },
        { name: "Closed", cell: (row) => (row.closed_at ? ago(now - row.closed_at) : "–") },
        { name: "Transaction", cell: (row) => (row.transaction ? <Transaction hash={row.transaction} /> : "–") },
      ]}
    />
  );
}

/** Says which model came of the rounds so far, and how to have it. */
function LatestModel({ id }: { id: string }) {
  const { data } = useAnswer<Page<Model>>(paths.models(id));
  const now = useNow();
  const model = data?.items[0];
  if (!model) return <Loading />;
  const command = `tribute ipfs cat ${model.cid}/${model.file} --output ${model.file}`;
  return (
    <Facts
      items={[
        ["Latest", model.settled_rounds ? `after ${count(model.settled_rounds, "paid round")}, from ${count(model.updates, "update")}` : "the initial one"],
        ["Published", ago(now - model.published_at)],
        ["Accuracy", model.accuracy === null ? "not published" : percent(model.accuracy)],
        ["Content", <Cid text={model.cid} />],
        ["Fetch it", <span class="command"><code>{command}</code><Copy text={command} label="the command" /></span>],
      ]}
    />
  );
}

function Terms({ project }: { project: Project }) {
  const { token } = project;
  const money = (units: string) => <Amount units={units} token={token} />;
  return (
    <div class="two">
      <Facts
        items={[
          ["Reward a round", money(project.reward)],
          ["Fee to the settler", money(project.fee)],
          ["Stake", money(project.stake)],
          ["Stake lost by strike", schedule(project.slash_schedule)],
          ["Bond, and lost by an expired round", <>{money(project.bond)}, {money(project.bond_penalty)}</>],
          ["Commit, reveal, settle windows", [project.commit_window, project.reveal_window, project.settle_window].map(span).join(", ")],
          ["Unbonding", span(project.unbonding_delay)],
          ["Updates a round needs", project.min_updates],
          ["Privacy budget", project.epsilon_milli ? `ε ${project.epsilon_milli / 1000}` : "none asked"],
        ]}
      />
      <Facts
        items={[
          ["Scoring rule", <>{project.rule ?? "unknown"} <Hash text={project.rule_address} label="the rule's address" /></>],
          ["Rule settings", settings(project)],
          ["Verifier", <>{project.verifier ?? "unknown"} <Hash text={project.verifier_address} label="the verifier's address" /></>],
          ["Aggregator", <Hash text={project.aggregator} label="the aggregator's address" href={routes.account(project.aggregator)} />],
          ["Root trainer", project.root ? <Hash text={project.root} label="the root trainer's address" href={routes.account(project.root)} /> : "none"],
          ["Slashed stake goes to", <Hash text={project.slash_sink} label="the sink's address" href={routes.account(project.slash_sink)} />],
          ["Token", <>{token.symbol} <Hash text={token.address} label="the token's address" /></>],
          ["Step, longest update", <>2<sup>−{project.step_bits}</sup>, {integer(project.clip_norm)} steps</>],
          ["Description", <Cid text={project.description_cid} />],
          ["Opened by", <Transaction hash={project.transaction} />],
        ]}
      />
    </div>
  );
}

/** Lists what each strike costs, without the repetition at the end. */
function schedule(bps: number[]): string {
  const last = bps.at(-1);
  const kept = bps.slice(0, bps.findLastIndex((one) => one !== last) + 2);
  return kept.map((one) => percent(one / 10_000, 0)).join(", ") + (kept.length < bps.length ? " from there on" : "");
}

function settings(project: Project): string {
  if (!project.rule_settings) return "unknown to this deployment";
  return Object.entries(project.rule_settings)
    .map(([name, value]) => `${name.replaceAll("_", " ").replace(" bps", "")} ${name.endsWith("_bps") ? percent(value / 10_000, 0) : value}`)
    .join(", ");
}
