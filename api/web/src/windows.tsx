// Count the current round's windows down. Which phase it is, the API says; when a window ends, it is
// asked again.

import { ActButton } from "./account.tsx";
import type { Project, ProjectSummary, Round } from "./api.ts";
import { amount, count, duration } from "./format.ts";
import { useNow, useUntil } from "./live.ts";
import { Badge, type Tone } from "./ui.tsx";

type Phase = Project["phase"];

const ORDER: Phase[] = ["bonding", "joining", "commit", "reveal", "settle", "overdue", "ended"];
/** Returns the seconds until the present window ends. */
function useLeft(project: ProjectSummary): number | undefined {
  const { opens_at, commit_end, reveal_end, settle_end } = project.windows;
  const ends: Partial<Record<Phase, number>> = { joining: opens_at, commit: commit_end, reveal: reveal_end, settle: settle_end };
  return useUntil(ends[project.phase], project.id);
}

export function Windows({ project, round }: { project: Project; round: Round | undefined }) {
  const left = useLeft(project);
  const now = useNow();
  const { phase, windows } = project;
  if (phase === "bonding") return <p class="soft">The first round opens once the aggregator has posted its bond.</p>;
  if (phase === "ended") {
    return (
      <p class="soft">
        No round is open: the project has ended after {count(project.settled_rounds, "paid round")}.
      </p>
    );
  }
  const rows = [
    { name: "Commit", phase: "commit", from: windows.opens_at, until: windows.commit_end, note: round && `${round.commits} of ${count(round.active, "trainer")}` },
    { name: "Reveal", phase: "reveal", from: windows.commit_end, until: windows.reveal_end, note: round && `${round.reveals} of ${count(round.commits, "commit")}` },
    { name: "Settle", phase: "settle", from: windows.reveal_end, until: windows.settle_end, note: "score, prove, pay" },
  ] as const;
  const at = ORDER.indexOf(phase);
  return (
    <div class="stack">
      {phase === "joining" && left !== undefined && (
        <p>
          <span class="countdown" role="timer" aria-label="Time until the first round">
            {duration(left)}
          </span>{" "}
          <span class="soft">until the first round, or sooner once all {project.capacity} places are taken</span>
        </p>
      )}
      {phase === "overdue" && (
        <div class="next">
          <div>
            <Badge tone="bad" symbol="alert">
              overdue
            </Badge>{" "}
            {overdue(project, round)}
          </div>
          <ActButton kind="expire" body={(sender) => ({ sender, project: project.id })}>
            Expire the round
          </ActButton>
        </div>
      )}
      <ol class="windows plain">
        {rows.map((row) => {
          const place = at - ORDER.indexOf(row.phase);
          const state = place > 0 ? "done" : place === 0 ? "now" : "next";
          const length = row.until - row.from;
          const part = state === "done" ? 1 : state === "next" || length <= 0 ? 0 : Math.max(0, Math.min(1, (now - row.from) / length));
          return (
            <li key={row.name} data-state={state} aria-current={state === "now" ? "step" : undefined}>
              <span class="fill" style={{ width: `${(100 * part).toFixed(1)}%` }} />
              <div class="name">{row.name}</div>
              {state === "now" ? (
                <div class="countdown" role="timer" aria-label={`${row.name} window ends in`}>
                  {duration(left ?? 0)}
                </div>
              ) : (
                <div class="when">{state === "done" ? "over" : `lasts up to ${duration(length)}`}</div>
              )}
              <div class="when">{row.note}</div>
            </li>
          );
        })}
      </ol>
    </div>
  );
}

/** Says why a round can be expired, and what that pays to whom. */
function overdue(project: Project, round: Round | undefined): string {
  const reveals = round?.reveals ?? 0;
  const next = "The round's reward stays in escrow for another round.";
  if (reveals < project.min_updates) {
    return `${count(reveals, "update")} came and ${project.min_updates} are needed: anybody may expire the round. ${next}`;
  }
  const [penalty, held] = [BigInt(project.bond_penalty), BigInt(project.bond_held)];
  const each = (penalty < held ? penalty : held) / BigInt(reveals);
  const paid = `${amount(each, project.token.decimals)} ${project.token.symbol}`;
  return `Nobody settled in time: anybody may expire the round, and the bond pays ${paid} to each of the ${count(reveals, "trainer")} who revealed. ${next}`;
}

const tones: Record<Project["status"], [Tone, string]> = {
  bonding: ["warn", "needs bond"],
  running: ["accent", "running"],
  finished: ["good", "finished"],
  halted: ["bad", "halted"],
  closed: ["plain", "closed"],
};

export function StatusBadge({ status }: { status: Project["status"] }) {
  const [tone, text] = tones[status];
  return <Badge tone={tone}>{text}</Badge>;
}

const doing: Record<Phase, string> = {
  bonding: "waits for its bond",
  joining: "starts in",
  commit: "commits for",
  reveal: "reveals for",
  settle: "settles within",
  overdue: "settlement overdue",
  ended: "ended",
};

/** Says in a few words what a project is doing now, counting down. */
export function Doing({ project }: { project: ProjectSummary }) {
  const left = useLeft(project);
  return (
    <>
      {doing[project.phase]} {left === undefined ? "" : duration(left)}
    </>
  );
}

const proofs = {
  proven: {
    tone: "good",
    symbol: "shield",
    done: "proof verified",
    due: "proof required",
    title: "The chain checks a proof that the matrix is the Gram matrix of the committed updates.",
  },
  attested: {
    tone: "warn",
    symbol: "sign",
    done: "attested",
    due: "attested",
    title: "The aggregator signs the matrix; the chain checks the signature, not a proof.",
  },
  unknown: {
    tone: "plain",
    symbol: "alert",
    done: "unknown verifier",
    due: "unknown verifier",
    title: "This deployment does not know the project's verifier.",
  },
} as const;

/** Says how the matrices are known to be right; before the first settlement, how they will be. */
export function ProofBadge({ proof, settled }: { proof: Project["proof"]; settled: boolean }) {
  const { tone, symbol, done, due, title } = proofs[proof];
  return (
    <Badge tone={settled ? tone : "plain"} symbol={symbol} title={title}>
      {settled ? done : due}
    </Badge>
  );
}
