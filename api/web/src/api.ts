// Where the API answers what. Its types are generated from the OpenAPI document (`npm run types`).

export type {
  Account,
  AccountBalances,
  Action,
  Evaluation,
  Explanation,
  Market,
  MarketEvent,
  Model,
  OpenTerms,
  Penalty,
  Project,
  ProjectSummary,
  Reward,
  Round,
  RoundDetail,
  Status,
  Step,
  Trainer,
  TrainerAcross,
  Transactions,
  UnsignedTransaction,
  Update,
} from "./openapi.d.ts";

export interface Page<T> {
  items: T[];
  next: string | null;
}

const part = encodeURIComponent;
const project = (id: string) => `/v1/projects/${part(id)}`;
/** Items asked for at once where all of them are wanted. */
const MANY = "limit=200";

export const paths = {
  document: () => "/openapi.json",
  events: () => "/v1/events",
  status: () => "/v1/status",
  projects: (search: string, status: string) => {
    const query = new URLSearchParams({ limit: "25" });
    if (search) query.set("search", search);
    if (status) query.set("status", status);
    return `/v1/projects?${query}`;
  },
  project,
  rounds: (id: string) => `${project(id)}/rounds?${MANY}`,
  round: (id: string, round: string) => `${project(id)}/rounds/${part(round)}`,
  explain: (id: string, round: string, trainer: string) =>
    `${project(id)}/rounds/${part(round)}/explain/${part(trainer)}`,
  trainers: (id: string) => `${project(id)}/trainers?${MANY}`,
  trainer: (id: string, trainer: string) => `${project(id)}/trainers/${part(trainer)}`,
  penalties: (id: string) => `/v1/penalties?project=${part(id)}&${MANY}`,
  across: (address: string) => `/v1/trainers/${part(address)}`,
  rewards: (id: string) => `/v1/rewards?project=${part(id)}&${MANY}`,
  updates: (id: string, trainer: string) => `/v1/updates?project=${part(id)}&trainer=${part(trainer)}&${MANY}`,
  market: () => "/v1/market",
  models: (id: string) => `${project(id)}/models?limit=1`,
  recent: (limit: number, id?: string) => `/v1/events/recent?${id ? `project=${part(id)}&` : ""}limit=${limit}`,
  evaluations: (id: string) => `${project(id)}/evaluations?${MANY}`,
  balances: (address: string) => `/v1/accounts/${part(address)}/balances`,
  prepare: (kind: string) => `/v1/transactions/${kind}`,
};
