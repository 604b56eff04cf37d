// An address across the market: what it holds, and its place in every project.

import { ActButton, useAddress } from "../account.tsx";
import { paths, type Account, type AccountBalances, type TrainerAcross } from "../api.ts";
import { amount, duration, short } from "../format.ts";
import { routes } from "../links.ts";
import { touch, useAnswer, useNow, useUntil } from "../live.ts";
import { Amount, Badge, Card, Empty, Failure, Hash, Head, Loading, NotFound, Notice, Stats, Table } from "../ui.tsx";

export function AccountPage({ address }: { address: string }) {
  const { data, error } = useAnswer<AccountBalances>(paths.balances(address));
  const own = useAddress()?.toLowerCase() === address.toLowerCase();
  if (error && error.status >= 400 && error.status < 500) return <NotFound what="account" />;
  if (error && !data) return <Failure error={error} retry={() => touch()} />;
  if (!data) return <Loading lines={6} />;
  return (
    <>
      <Head
        title={own ? "Your account" : `Account ${short(data.address)}`}
        crumbs={[["Projects", routes.projects()]]}
        meta={<Hash text={data.address} label="the address" head={42} />}
      />
      <div class="stack">
        {data.projects.some((one) => one.roles.includes("trainer")) && <NextSteps address={data.address} own={own} accounts={data.projects} />}
        {data.balances.map(({ token, wallet, credit, stake, bond, escrow, withdrawn }) => (
          <Stats
            key={token.address}
            items={[
              { label: "In the wallet", value: wallet === null ? "–" : <Amount units={wallet} token={token} /> },
              { label: "To withdraw", value: <Amount units={credit} token={token} /> },
              { label: "At stake", value: <Amount units={sum(stake, bond)} token={token} />, note: "stakes and bonds" },
              ...(BigInt(escrow) ? [{ label: "In escrow", value: <Amount units={escrow} token={token} />, note: "of the projects that it funds" }] : []),
              { label: "Withdrawn so far", value: <Amount units={withdrawn} token={token} /> },
            ]}
          />
        ))}
        <Card title="Projects" flush>
          {data.projects.length ? (
            <Places accounts={data.projects} address={data.address} own={own} />
          ) : (
            <Empty title="No project yet">
              This address has sponsored, trained or settled nothing here. <a href={routes.projects()}>See what is open</a>.
            </Empty>
          )}
        </Card>
      </div>
    </>
  );
}

/** Shows what a trainer has to do in time, in any project. */
function NextSteps({ address, own, accounts }: { address: string; own: boolean; accounts: Account[] }) {
  const { data } = useAnswer<TrainerAcross>(paths.across(address));
  const now = useNow();
  const ends = (data?.next ?? []).map((action) => action.until).filter((until) => until > 0);
  useUntil(ends.length ? Math.min(...ends) : undefined, "");
  const urgent = (data?.projects ?? []).flatMap((place) => place.next.filter((action) => action.urgent).map((action) => ({ action, place })));
  if (!urgent.length) return null;
  const titles = new Map(accounts.map((one) => [one.project, one.title]));
  return (
    <section aria-label="What to do next" class="stack tight">
      {urgent.map(({ action, place }) => (
        <Notice key={place.project} tone="accent">
          <div class="next">
            <div>
              <strong>{action.text}</strong>
              {action.until > 0 && <span class="soft"> {duration(action.until - now)} left</span>}
            </div>
            <a class="button" href={routes.trainer(place.project, address)}>
              {own ? "Your place" : "Its place"} in {titles.get(place.project) ?? short(place.project)}
            </a>
          </div>
        </Notice>
      ))}
    </section>
  );
}

function sum(first: string, second: string): string {
  return String(BigInt(first) + BigInt(second));
}

function Places({ accounts, address, own }: { accounts: Account[]; address: string; own: boolean }) {
  return (
    <Table
      caption="Projects in which the address has a part"
      rows={accounts}
      id={(row) => row.project}
      columns={[
        { name: "Project", cell: (row) => <a href={routes.project(row.project)}>{row.title ?? short(row.project)}</a> },
        {
          name: "Roles",
          cell: (row) => (
            <span class="who">
              {row.roles.map((role) => (
                <Badge key={role}>{role.replace("_", " ")}</Badge>
              ))}
            </span>
          ),
        },
        { name: "Stake, bond", number: true, cell: (row) => <Amount units={sum(row.stake, row.bond)} token={row.token} /> },
        { name: "In escrow", number: true, cell: (row) => <Amount units={row.escrow} token={row.token} /> },
        { name: "To withdraw", number: true, cell: (row) => <Amount units={row.credit} token={row.token} /> },
        { name: "Withdrawn", number: true, cell: (row) => <Amount units={row.withdrawn} token={row.token} /> },
        {
          name: "More",
          cell: (row) => (
            <span class="who">
              {row.roles.includes("trainer") && <a href={routes.trainer(row.project, address)}>Earnings</a>}
              {own && BigInt(row.credit) > 0n && (
                <ActButton kind="withdraw" body={(sender) => ({ sender, project: row.project })}>
                  Withdraw {amount(row.credit, row.token.decimals)}
                </ActButton>
              )}
            </span>
          ),
        },
      ]}
    />
  );
}
