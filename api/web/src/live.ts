// Read the API and stay current: a cache of answers that events make old.
//
// Every mounted answer is fetched again soon after an event of its project; after a lost stream all
// of them are. The chain's clock, which windows are measured by, comes from the newest block.

import { useEffect, useReducer } from "preact/hooks";

import { paths, type MarketEvent, type Page } from "./api.ts";

/** A problem+json answer, or the network's failure with status 0. */
export class ApiError extends Error {
  readonly status: number;
  /** seconds after which the server wants to be asked again; 0 where it said nothing */
  readonly wait: number;
  constructor(status: number, message: string, wait = 0) {
    super(message);
    this.status = status;
    this.wait = wait;
  }

  /** Tells whether the same question may be answered later. */
  get passing(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

export interface Answer<T> {
  data?: T;
  error?: ApiError;
  /** true until the first answer or error */
  loading: boolean;
}

/** Fetches JSON; ApiError carries what a problem+json answer says. */
export async function request<T>(path: string, body?: unknown): Promise<T> {
  let response: Response;
  try {
    response = await fetch(
      path,
      body === undefined
        ? { headers: { accept: "application/json" } }
        : {
            method: "POST",
            headers: { "content-type": "application/json", accept: "application/json" },
            body: JSON.stringify(body),
          },
    );
  } catch {
    throw new ApiError(0, "The server cannot be reached.");
  }
  const found: unknown = await response.json().catch(() => undefined);
  if (!response.ok) {
    const wait = Number(response.headers.get("retry-after")) || 0;
    throw new ApiError(response.status, problem(found) ?? `The server answered ${response.status}.`, wait);
  }
  return found as T;
}

function problem(body: unknown): string | undefined {
  if (typeof body !== "object" || body === null) return undefined;
  const { title, detail } = body as { title?: unknown; detail?: unknown };
  return [detail, title].find((text): text is string => typeof text === "string");
}

// ------------------------------------------------------------------ the cache

interface Entry {
  answer: Answer<unknown>;
  listeners: Set<() => void>;
  load: (path: string) => Promise<unknown>;
  fetching: boolean;
  again: boolean;
  retry: ReturnType<typeof setTimeout> | undefined;
}

const entries = new Map<string, Entry>();

async function refresh(path: string, entry: Entry): Promise<void> {
  if (entry.fetching) {
    entry.again = true;
    return;
  }
  entry.fetching = true;
  clearTimeout(entry.retry);
  do {
    entry.again = false;
    try {
      entry.answer = { data: await entry.load(path), loading: false };
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      // What was shown stays while the server is away or busy; a definite answer replaces it.
      const kept = error.passing ? entry.answer.data : undefined;
      if (error.passing) {
        // At various times, so that a page's questions do not come back all at once.
        const pause = Math.max(RETRY_MS, 1000 * error.wait) * (1 + Math.random() / 2);
        clearTimeout(entry.retry);
        entry.retry = setTimeout(() => entry.listeners.size && void refresh(path, entry), pause);
      }
      entry.answer = { ...(kept === undefined ? {} : { data: kept }), error, loading: false };
    }
    for (const listener of entry.listeners) listener();
  } while (entry.again);
  entry.fetching = false;
}

/** Returns the API's answer at a path and keeps it current. */
export function useAnswer<T>(path: string): Answer<T> {
  return useCached<T>(path, request);
}

/** Returns the items of all pages of a list, of at most `MOST_PAGES`, and keeps them current. */
export function useAll<T>(path: string): Answer<T[]> {
  return useCached<T[]>(path, all);
}

const MOST_PAGES = 25;

async function all(path: string): Promise<unknown[]> {
  const items: unknown[] = [];
  let next: string | null = null;
  for (let pages = 0; pages === 0 || (next !== null && pages < MOST_PAGES); pages++) {
    const page: Page<unknown> = await request(next === null ? path : `${path}&cursor=${encodeURIComponent(next)}`);
    items.push(...page.items);
    next = page.next;
  }
  return items;
}

function useCached<T>(path: string, load: (path: string) => Promise<unknown>): Answer<T> {
  const [, rerender] = useReducer((n: number, _: void) => n + 1, 0);
  useEffect(() => {
    let entry = entries.get(path);
    if (!entry) {
      entry = { answer: { loading: true }, listeners: new Set(), load, fetching: false, again: false, retry: undefined };
      entries.set(path, entry);
    }
    const listener = () => rerender(undefined);
    entry.listeners.add(listener);
    void refresh(path, entry);
    const mounted = entry;
    return () => {
      mounted.listeners.delete(listener);
    };
  }, [path]);
  return (entries.get(path)?.answer ?? { loading: true }) as Answer<T>;
}

/** Asks again for what is on the page and an event may have changed, or for everything. */
export function touch(event?: Pick<MarketEvent, "project" | "name">): void {
  for (const [path, entry] of entries) {
    if (!entry.listeners.size) entries.delete(path);
    else if (!event || (concerns(path, event.project) && !(PAID_ONLY.test(path) && event.name !== "Settled"))) {
      void refresh(path, entry);
    }
  }
}

/** Long lists that nothing but a settlement makes longer. */
const PAID_ONLY = /^\/v1\/rewards/;

/** Tells whether an answer may change with a project; paths may name it by its first digits. */
function concerns(path: string, project: string): boolean {
  const named = /\bprojects?[/=]0x([0-9a-f]+)/i.exec(path)?.[1];
  return named === undefined || project.slice(2).startsWith(named.toLowerCase());
}

/** Seconds after a moment until a block that is past it can be there, and between questions whether it is. */
const SLACK_S = 1;
const AGAIN_S = 5;

/** Returns the seconds until a moment of the chain's clock; once it has come, asks again what a project's event would change. */
export function useUntil(moment: number | undefined, project: string): number | undefined {
  const now = useNow();
  const over = moment ? Math.floor((now - moment - SLACK_S) / AGAIN_S) : -1;
  useEffect(() => {
    if (over >= 0) touch({ project, name: "" });
  }, [over < 0 ? -1 : over, moment]);
  return moment ? moment - now : undefined;
}

/** Takes in an answer that came by the stream. */
function put(path: string, data: unknown): void {
  const entry = entries.get(path);
  if (!entry) return;
  entry.answer = { data, loading: false };
  for (const listener of entry.listeners) listener();
}

/** Answers that change without an event on the chain: sponsors publish accuracies elsewhere. */
const UNTOLD = /\/(evaluations|rounds)\b/;

// ----------------------------------------------------------------- the stream

const RETRY_MS = 2_000;
const GATHER_MS = 250;

let connected = false;
const watchers = new Set<() => void>();

/** Follows the event stream for as long as the page is open. */
export function follow(): void {
  const pending = new Map<string, MarketEvent>();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const flush = () => {
    timer = undefined;
    const events = [...pending.values()];
    pending.clear();
    for (const event of events) touch(event);
  };
  const connect = () => {
    const stream = new EventSource(paths.events());
    stream.onopen = () => {
      setConnected(true);
      touch();
    };
    stream.addEventListener("market", (message: MessageEvent<string>) => {
      const event = JSON.parse(message.data) as MarketEvent;
      pending.set(`${event.project} ${event.name === "Settled"}`, event);
      // A settlement brings many events at once.
      timer ??= setTimeout(flush, GATHER_MS);
    });
    stream.addEventListener("reorganised", () => touch());
    stream.addEventListener("described", () => touch());
    stream.addEventListener("status", (message: MessageEvent<string>) => {
      put(paths.status(), JSON.parse(message.data));
      for (const [path, entry] of entries) if (UNTOLD.test(path) && entry.listeners.size) void refresh(path, entry);
    });
    stream.onerror = () => {
      setConnected(false);
      // The browser reconnects by itself unless the server answered with an error.
      if (stream.readyState === EventSource.CLOSED) setTimeout(connect, RETRY_MS);
    };
  };
  connect();
}

function setConnected(now: boolean): void {
  if (connected === now) return;
  connected = now;
  for (const watcher of watchers) watcher();
}

/** Tells whether events arrive at the moment. */
export function useConnected(): boolean {
  const [, rerender] = useReducer((n: number, _: void) => n + 1, 0);
  useEffect(() => {
    const watcher = () => rerender(undefined);
    watchers.add(watcher);
    return () => {
      watchers.delete(watcher);
    };
  }, []);
  return connected;
}

// ------------------------------------------------------------------- the clock

let offset = 0;

/** Takes the chain's time from a block that was just read. */
export function setChainTime(timestamp: number): void {
  offset = timestamp - Date.now() / 1000;
}

/** Returns the chain's time in unix seconds, once a second anew. */
export function useNow(): number {
  const [, tick] = useReducer((n: number, _: void) => n + 1, 0);
  useEffect(() => {
    const timer = setInterval(() => tick(undefined), 1000);
    return () => clearInterval(timer);
  }, []);
  return Date.now() / 1000 + offset;
}
