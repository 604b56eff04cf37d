// Open a project: terms in, transactions for the sponsor's wallet out.

import { useEffect, useState } from "preact/hooks";

import { useAct, useAddress } from "../account.tsx";
import { paths, type OpenTerms, type Page, type Project, type ProjectSummary } from "../api.ts";
import { amount, short, titleOf, units } from "../format.ts";
import { routes } from "../links.ts";
import { useAnswer } from "../live.ts";
import { useStatus } from "../status.ts";
import { Card, Empty, Head, Loading, Notice } from "../ui.tsx";

export function OpenPage() {
  const { data } = useAnswer<Page<ProjectSummary>>(paths.projects("", ""));
  const [id, choose] = useState("");
  const newest = data?.items[0]?.id;
  useEffect(() => {
    // Chosen once: a project that somebody opens meanwhile must not replace what was typed.
    if (!id && newest) choose(newest);
  }, [newest]);
  return (
    <>
      <Head
        title="Open a project"
        crumbs={[["Projects", routes.projects()]]}
        lead="The whole reward moves into escrow when the project opens, and its terms never change after that."
      />
      {!data ? (
        <Loading lines={6} />
      ) : !newest ? (
        <div class="card">
          <Empty title="No model to start from yet">
            The first project of a market is opened with <code>tribute project open</code>, which publishes its model.
          </Empty>
        </div>
      ) : (
        <>
          <div class="stack">
            <Card title="Model" aside="as another project published it">
              <div class="field">
                <label for="model">Start from the model of</label>
                <select id="model" value={id} onChange={(event) => choose(event.currentTarget.value)}>
                  {data.items.map((item) => (
                    <option key={item.id} value={item.id}>
                      {titleOf(item)} · {item.model ?? "model"} · {short(item.id)}
                    </option>
                  ))}
                </select>
                <small>
                  A model of your own is published with <code>tribute project open --model …</code>
                </small>
              </div>
            </Card>
            {id && <Terms key={id} id={id} />}
          </div>
        </>
      )}
    </>
  );
}

interface Field {
  name: keyof OpenTerms;
  label: string;
  note?: string;
  kind: "amount" | "count" | "address" | "address or none";
  value: (from: Project) => string;
}

const tokens = (read: (from: Project) => string) => (from: Project) =>
  amount(read(from), from.token.decimals, from.token.decimals).replaceAll(",", "");

const groups: { title: string; columns: "two-fields" | "three-fields" | "four-fields"; fields: Field[] }[] = [
  {
    title: "Reward",
    columns: "three-fields",
    fields: [
      { name: "rounds", label: "Rounds to pay", kind: "count", value: (from) => String(from.rounds) },
      { name: "reward", label: "Reward a round", note: "shared by the trainers", kind: "amount", value: tokens((from) => from.reward) },
      { name: "fee", label: "Fee a round", note: "to whoever settles it", kind: "amount", value: tokens((from) => from.fee) },
    ],
  },
  {
    title: "Trainers",
    columns: "three-fields",
    fields: [
      { name: "capacity", label: "Trainers at most", note: "up to 128", kind: "count", value: (from) => String(from.capacity) },
      { name: "min_updates", label: "Updates a round needs", note: "fewer, and it is not paid", kind: "count", value: (from) => String(from.min_updates) },
      { name: "stake", label: "Stake of a trainer", note: "lost by strikes", kind: "amount", value: tokens((from) => from.stake) },
      { name: "root", label: "Root trainer", note: "its clean data say what the others earn; empty for none", kind: "address or none", value: (from) => from.root ?? "" },
    ],
  },
  {
    title: "Windows, in seconds",
    columns: "four-fields",
    fields: [
      { name: "join_window", label: "Join", note: "a full project starts at once", kind: "count", value: (from) => String(from.join_window) },
      { name: "commit_window", label: "Commit", note: "to train and commit", kind: "count", value: (from) => String(from.commit_window) },
      { name: "reveal_window", label: "Reveal", kind: "count", value: (from) => String(from.reveal_window) },
      { name: "settle_window", label: "Settle", kind: "count", value: (from) => String(from.settle_window) },
    ],
  },
  {
    title: "Aggregator",
    columns: "two-fields",
    fields: [
      { name: "aggregator", label: "Address", note: "bonded to settle each round", kind: "address", value: (from) => from.aggregator },
      { name: "bond", label: "Bond", kind: "amount", value: tokens((from) => from.bond) },
      { name: "bond_penalty", label: "Bond lost by an expired round", kind: "amount", value: tokens((from) => from.bond_penalty) },
      { name: "slash_sink", label: "Slashed stake goes to", note: "neither you nor the aggregator", kind: "address", value: (from) => from.slash_sink },
    ],
  },
];

const fields = groups.flatMap((group) => group.fields);

/** Returns what is wrong with an entry, or nothing. */
function wrongWith(field: Field, text: string, decimals: number): string | undefined {
  if (field.kind === "amount") return units(text, decimals) === undefined ? "an amount of tokens, such as 12.5" : undefined;
  if (field.kind === "address or none" && !text.trim()) return undefined;
  if (field.kind.startsWith("address")) return /^0x[0-9a-fA-F]{40}$/.test(text.trim()) ? undefined : "an address: 0x and 40 hexadecimal digits";
  return /^\d{1,9}$/.test(text.trim()) ? undefined : "a whole number";
}

function Terms({ id }: { id: string }) {
  const { data: from } = useAnswer<Project>(paths.project(id));
  return from ? <Form from={from} /> : <Loading lines={6} />;
}

function Form({ from }: { from: Project }) {
  const status = useStatus();
  const address = useAddress();
  const [texts, setTexts] = useState(() => new Map(fields.map((field) => [field.name, field.value(from)])));
  const [verifier, setVerifier] = useState(from.verifier ?? Object.keys(status.verifiers)[0] ?? "");
  const { symbol, decimals } = from.token;
  const text = (field: Field) => texts.get(field.name) ?? "";
  const wrong = new Map(fields.map((field) => [field.name, wrongWith(field, text(field), decimals)]));
  const good = [...wrong.values()].every((problem) => problem === undefined);
  const terms = (sender: string): object => ({
    sender,
    verifier,
    ...(from.rule ? { rule: from.rule } : {}),
    rule_params: from.rule_params,
    token: from.token.address,
    patience: from.patience,
    max_failures: from.max_failures,
    step_bits: from.step_bits,
    dimension: from.dimension,
    clip_norm: Number(from.clip_norm),
    epsilon_milli: from.epsilon_milli,
    exclusive_window: Math.min(from.exclusive_window, Number(texts.get("settle_window"))),
    unbonding_delay: Number(texts.get("commit_window")) + Number(texts.get("reveal_window")) + Number(texts.get("settle_window")),
    slash_schedule: from.slash_schedule,
    description_cid: from.description_cid,
    initial_commitment: from.initial_commitment,
    ...Object.fromEntries(
      fields.map((field) => {
        const value = text(field).trim();
        return [field.name, field.kind === "amount" ? String(units(value, decimals)) : field.kind === "count" ? Number(value) : value || null];
      }),
    ),
  });
  const { run, busy, project } = useAct("open", terms);
  const cost = good ? BigInt(texts.get("rounds") ?? "0") * ((units(texts.get("reward") ?? "", decimals) ?? 0n) + (units(texts.get("fee") ?? "", decimals) ?? 0n)) : undefined;
  return (
    <Card title="Terms" aside={`amounts in ${symbol}`}>
      <form
        class="form"
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          if (good && !busy) void run();
        }}
      >
        {groups.map((group) => (
          <fieldset key={group.title} class={group.columns}>
            <legend>{group.title}</legend>
            {group.fields.map((field) => (
              <Entry
                key={field.name}
                field={field}
                text={text(field)}
                problem={wrong.get(field.name)}
                change={(value) => setTexts(new Map(texts).set(field.name, value))}
              />
            ))}
          </fieldset>
        ))}
        <div class="field">
          <label for="verifier">Verifier of the Gram matrix</label>
          <select id="verifier" value={verifier} onChange={(event) => setVerifier(event.currentTarget.value)}>
            {Object.keys(status.verifiers).map((name) => (
              <option key={name}>{name}</option>
            ))}
          </select>
        </div>
        <div class="next">
          <p>
            <span class="soft">Moves into escrow</span>
            <br />
            <strong class="countdown">{cost === undefined ? "–" : `${amount(cost, decimals)} ${symbol}`}</strong>
          </p>
          <button type="submit" class="button primary" disabled={!good || busy !== ""}>
            {busy ? `${busy}…` : address ? "Open the project" : "Connect and open"}
          </button>
        </div>
        {project && (
          <Notice tone="good">
            The project is open: <a href={routes.project(project)}>{short(project)}</a>. The aggregator's bond starts it.
          </Notice>
        )}
      </form>
    </Card>
  );
}

function Entry(props: { field: Field; text: string; problem: string | undefined; change: (text: string) => void }) {
  const { field, problem } = props;
  return (
    <div class="field">
      <label for={field.name}>{field.label}</label>
      <input
        id={field.name}
        name={field.name}
        value={props.text}
        inputMode={field.kind.startsWith("address") ? "text" : field.kind === "count" ? "numeric" : "decimal"}
        autoComplete="off"
        spellcheck={false}
        aria-invalid={problem !== undefined}
        aria-describedby={`${field.name}-note`}
        onInput={(event) => props.change(event.currentTarget.value)}
      />
      <small id={`${field.name}-note`} class={problem ? "wrong" : ""}>
        {problem ? `This must be ${problem}.` : (field.note ?? "")}
      </small>
    </div>
  );
}
