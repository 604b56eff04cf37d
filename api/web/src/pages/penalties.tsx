// What stakes and bonds lost in a project: who, why, and to whom it went.

import { paths, type Penalty, type Project } from "../api.ts";
import { ago, count } from "../format.ts";
import { routes } from "../links.ts";
import { useAll, useNow } from "../live.ts";
import { Amount, Card, Hash, Table, Transaction } from "../ui.tsx";

const reasons: Record<Penalty["reason"], string> = {
  outlier: "update rejected as an outlier",
  silence: "nobody settled in time",
  exclusions: "too many updates left out",
};

/** Lists penalties; a project without any shows nothing. */
export function Penalties({ project }: { project: Project }) {
  const { data } = useAll<Penalty>(paths.penalties(project.id));
  const now = useNow();
  if (!data?.length) return null;
  return (
    <Card title="Penalties" aside={`${data.length}, newest first`} flush>
      <Table
        caption="Penalties in the project, newest first"
        rows={data}
        id={(row) => `${row.round} ${row.kind} ${row.account}`}
        columns={[
          { name: "Lost by", cell: (row) => <Loser project={project} row={row} /> },
          { name: "Round", cell: (row) => <a href={routes.round(project.id, row.round)}>Round {row.round}</a> },
          { name: `Amount, ${project.token.symbol}`, number: true, cell: (row) => <Amount units={row.amount} token={project.token} bare /> },
          { name: "Of", cell: (row) => row.kind },
          { name: "Why", cell: (row) => reasons[row.reason] + (row.strikes ? `, strike ${row.strikes}` : "") },
          { name: "Went to", cell: (row) => <Receivers row={row} /> },
          { name: "When", cell: (row) => ago(now - row.at) },
          { name: "Transaction", cell: (row) => <Transaction hash={row.transaction} /> },
        ]}
      />
    </Card>
  );
}

function Loser({ project, row }: { project: Project; row: Penalty }) {
  const href = row.kind === "stake" ? routes.trainer(project.id, row.account) : routes.account(row.account);
  return <Hash text={row.account} label="the address" href={href} />;
}

function Receivers({ row }: { row: Penalty }) {
  const [only] = row.went_to;
  if (row.went_to.length > 1) return <>{count(row.went_to.length, "trainer")} who had revealed</>;
  return only ? <Hash text={only.account} label="the address" href={routes.account(only.account)} /> : <>–</>;
}
