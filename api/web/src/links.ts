// Every address that people can go to; those of the API are in api.ts.
// Routes live behind # so that any static host can serve the pages.

const part = encodeURIComponent;

export const routes = {
  projects: () => "#/",
  project: (id: string) => `#/projects/${part(id)}`,
  round: (id: string, round: number) => `#/projects/${part(id)}/rounds/${round}`,
  explain: (id: string, round: number, trainer: string) =>
    `#/projects/${part(id)}/rounds/${round}/why/${part(trainer)}`,
  trainer: (id: string, trainer: string) => `#/projects/${part(id)}/trainers/${part(trainer)}`,
  account: (address: string) => `#/accounts/${part(address)}`,
  open: () => "#/open",
  reference: () => "#/api",
};

/** Public explorers of transactions by chain id; other chains, devnets among them, have none. */
const explorers: Record<number, string> = {
  1: "https://etherscan.io/tx/",
  11155111: "https://sepolia.etherscan.io/tx/",
};

export const external = {
  transaction: (chain: number, hash: string): string | undefined => {
    const explorer = explorers[chain];
    return explorer && explorer + part(hash);
  },
  content: (cid: string) => `ipfs://${part(cid)}`,
};

const patterns = {
  projects: "/",
  project: "/projects/:id",
  round: "/projects/:id/rounds/:round",
  explain: "/projects/:id/rounds/:round/why/:trainer",
  trainer: "/projects/:id/trainers/:trainer",
  account: "/accounts/:address",
  open: "/open",
  reference: "/api",
} as const;

export type Page = keyof typeof patterns;

export interface Route {
  page: Page | "unknown";
  params: Record<string, string>;
}

/** Reads an address bar's hash. */
export function parse(hash: string): Route {
  const given = hash.replace(/^#/, "").split("?")[0] || "/";
  for (const [page, pattern] of Object.entries(patterns) as [Page, string][]) {
    const params = match(pattern, given);
    if (params) return { page, params };
  }
  return { page: "unknown", params: {} };
}

function match(pattern: string, given: string): Record<string, string> | undefined {
  const want = pattern.split("/");
  const have = given.replace(/(.)\/$/, "$1").split("/");
  if (want.length !== have.length) return undefined;
  const params: Record<string, string> = {};
  for (const [i, name] of want.entries()) {
    const value = have[i] ?? "";
    if (!name.startsWith(":")) {
      if (name !== value) return undefined;
      continue;
    }
    try {
      params[name.slice(1)] = decodeURIComponent(value);
    } catch {
      return undefined;
    }
    if (!value) return undefined;
  }
  return params;
}
