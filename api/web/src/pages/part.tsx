// What the acting account has in a project as its sponsor or aggregator, and can do about it.

import type { ComponentChildren } from "preact";

import { ActButton, useAddress } from "../account.tsx";
import { paths, type AccountBalances, type Project } from "../api.ts";
import { amount, count } from "../format.ts";
import { useAnswer } from "../live.ts";
import { Notice } from "../ui.tsx";

/** Shows what the account's parts in the project give it to do; nothing where it has none. */
export function Part({ project }: { project: Project }) {
  const address = useAddress();
  return address ? <Own project={project} address={address} /> : null;
}

function Own({ project, address }: { project: Project; address: string }) {
  const { data } = useAnswer<AccountBalances>(paths.balances(address));
  const credit = data?.projects.find((one) => one.project === project.id)?.credit ?? "0";
  const is = (other: string) => address.toLowerCase() === other.toLowerCase();
  const steps = [
    is(project.aggregator) && project.status === "bonding" && <Bond key="bond" project={project} />,
    is(project.sponsor) && BigInt(project.escrow) > 0n && <Escrow key="escrow" project={project} />,
    BigInt(credit) > 0n && <Credit key="credit" project={project} credit={credit} />,
  ].filter(Boolean);
  if (!steps.length) return null;
  return (
    <section aria-label="Your part" class="stack tight">
      {steps}
    </section>
  );
}

function Step({ children, button }: { children: ComponentChildren; button?: ComponentChildren }) {
  return (
    <Notice tone={button ? "accent" : "plain"}>
      <div class="next">
        <div>{children}</div>
        {button}
      </div>
    </Notice>
  );
}

function tokens(project: Project, units: string): string {
  return `${amount(units, project.token.decimals)} ${project.token.symbol}`;
}

function Bond({ project }: { project: Project }) {
  const bond = tokens(project, project.bond);
  return (
    <Step
      button={
        <ActButton kind="bond" body={(sender) => ({ sender, project: project.id })} primary>
          Post the bond of {bond}
        </ActButton>
      }
    >
      <strong>You are the aggregator: your bond starts the project.</strong>{" "}
      <span class="soft">You get it back when the project ends; each round that you let expire costs {tokens(project, project.bond_penalty)}.</span>
    </Step>
  );
}

/** Says when the sponsor can have back what is in escrow: the contract allows it once no round can claim it. */
function Escrow({ project }: { project: Project }) {
  const left = tokens(project, project.escrow);
  if (project.status === "running") {
    return (
      <Step>
        <strong>{left} of yours are in escrow</strong> for {count(project.rounds - project.settled_rounds, "more round")}.{" "}
        <span class="soft">
          You can take back what is left once the project has ended: after its last round, or after{" "}
          {count(project.max_failures, "failed round")} in a row.
        </span>
      </Step>
    );
  }
  const why = project.status === "bonding" ? "The aggregator has not posted its bond." : "The project has ended.";
  return (
    <Step
      button={
        <ActButton kind="close" body={(sender) => ({ sender, project: project.id })} primary>
          Close and take back {left}
        </ActButton>
      }
    >
      <strong>
        {why} You may close it and get the {left} in escrow back.
      </strong>{" "}
      <span class="soft">They become your credit at once, which you then withdraw.{project.status === "bonding" && " Nobody can join after that."}</span>
    </Step>
  );
}

function Credit({ project, credit }: { project: Project; credit: string }) {
  return (
    <Step
      button={
        <ActButton kind="withdraw" body={(sender) => ({ sender, project: project.id })} primary>
          Withdraw {tokens(project, credit)}
        </ActButton>
      }
    >
      <strong>You have {tokens(project, credit)} of credit here.</strong>
    </Step>
  );
}
