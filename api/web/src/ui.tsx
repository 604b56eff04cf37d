// The small pieces that every page is made of.

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { csv, type Value } from "./csv.ts";
import { amount, short } from "./format.ts";
import type { ApiError } from "./live.ts";
import { external, routes } from "./links.ts";
import { useStatus } from "./status.ts";

export type Tone = "plain" | "accent" | "good" | "warn" | "bad";

// -------------------------------------------------------------------- symbols

const symbols = {
  check: "M3 8.5 6.5 12 13 4.5",
  cross: "M4 4l8 8M12 4l-8 8",
  dot: "M8 7.9v.2",
  clock: "M8 4.5V8l2.5 1.5M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Z",
  shield: "M8 1.8 13 4v4c0 3.2-2.1 5.4-5 6.3C5.1 13.4 3 11.2 3 8V4Zm-2.3 6L7.4 9.6 10.5 6",
  sign: "M3 12.5c2-5 3-8 4.2-8 1.6 0-.6 6 .9 6 1 0 1.4-2 2.4-2 .8 0 .6 1.4 2.5 1.4",
  alert: "M8 5.5v3.2M8 11v.1M8 2 14.3 13.3H1.7Z",
  copy: "M5.5 5.5h7v8h-7zM3.5 10.5v-8h7",
  moon: "M13 9.5A5.5 5.5 0 0 1 6.5 3 5.5 5.5 0 1 0 13 9.5Z",
  sun: "M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 0 0 0-5.6ZM8 1.5v1.4M8 13.1v1.4M1.5 8h1.4M13.1 8h1.4M3.4 3.4l1 1M11.6 11.6l1 1M12.6 3.4l-1 1M4.4 11.6l-1 1",
} as const;

export function Symbol({ name }: { name: keyof typeof symbols }) {
  return (
    <svg viewBox="0 0 16 16" aria-hidden="true" fill="none" stroke="currentColor" stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round">
      <path d={symbols[name]} />
    </svg>
  );
}

// --------------------------------------------------------------------- values

export function Badge(props: { tone?: Tone; symbol?: keyof typeof symbols; title?: string; children: ComponentChildren }) {
  return (
    <span class="badge" data-tone={props.tone ?? "plain"} title={props.title}>
      {props.symbol && <Symbol name={props.symbol} />}
      {props.children}
    </span>
  );
}

export interface Token {
  symbol: string;
  decimals: number;
}

/** Shows smallest units as tokens; hovering shows every digit. */
export function Amount({ units, token, bare }: { units: string; token: Token; bare?: boolean }) {
  return (
    <span class="nowrap" title={`${amount(units, token.decimals, token.decimals)} ${token.symbol}`}>
      {amount(units, token.decimals)}
      {!bare && <small> {token.symbol}</small>}
    </span>
  );
}

/** Shows a long identifier shortened, with a button that copies all of it. */
export function Hash({ text, label, href, head, tail }: { text: string; label: string; href?: string; head?: number; tail?: number }) {
  const shown = <code title={text}>{short(text, head, tail)}</code>;
  return (
    <span class="nowrap">
      {href ? <a href={href}>{shown}</a> : shown}
      <Copy text={text} label={label} />
    </span>
  );
}

export function Copy({ text, label }: { text: string; label: string }) {
  const [done, setDone] = useState(false);
  useEffect(() => {
    if (!done) return;
    const timer = setTimeout(() => setDone(false), 1500);
    return () => clearTimeout(timer);
  }, [done]);
  return (
    <button
      type="button"
      class="copy"
      aria-label={done ? `Copied ${label}` : `Copy ${label}`}
      onClick={() => void navigator.clipboard?.writeText(text).then(() => setDone(true))}
    >
      <Symbol name={done ? "check" : "copy"} />
    </button>
  );
}

/** Names a transaction, with a link where the chain has a public explorer. */
export function Transaction({ hash }: { hash: string }) {
  const href = external.transaction(useStatus().chain_id, hash);
  return <Hash text={hash} label="the transaction's hash" {...(href ? { href } : {})} />;
}

/** Names content on IPFS. */
export function Cid({ text }: { text: string }) {
  return <Hash text={text} label="the CID" href={external.content(text)} head={9} tail={6} />;
}

/** Names a trainer of a project by address, with the colour that its contributions have. */
export function TrainerName({ project, address, colour }: { project: string; address: string; colour?: string | undefined }) {
  return (
    <span class="who">
      {colour && <Swatch colour={colour} />}
      <a href={routes.trainer(project, address)}>
        <code title={address}>{short(address)}</code>
      </a>
    </span>
  );
}

export function Swatch({ colour }: { colour: string }) {
  return <span class="swatch" style={{ background: `var(${colour})` }} aria-hidden="true" />;
}

/** Shows a share as a bar; the number belongs beside it. */
export function Meter({ share, label, colour }: { share: number; label: string; colour?: string }) {
  const width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(2)}%`;
  return (
    <span class="meter" role="img" aria-label={label}>
      <span style={colour ? { width, background: `var(${colour})` } : { width }} />
    </span>
  );
}

/** Offers a table as a file for a spreadsheet; `rows` are made when it is asked for. */
export function Download({ name, header, rows }: { name: string; header: string[]; rows: () => Value[][] }) {
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv(header, rows())], { type: "text/csv" }));
    link.download = `${name}.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  return (
    <button type="button" class="link" onClick={save} aria-label={`Download ${name} as CSV`}>
      CSV
    </button>
  );
}

// --------------------------------------------------------------------- blocks

export function Card(props: { title: string; aside?: ComponentChildren; flush?: boolean; children: ComponentChildren; id?: string }) {
  return (
    <section class="card" aria-label={props.title} id={props.id}>
      <header>
        <h2>{props.title}</h2>
        {props.aside && <div class="soft">{props.aside}</div>}
      </header>
      <div class={props.flush ? "flush" : "body"} tabIndex={props.flush ? 0 : undefined} role={props.flush ? "group" : undefined} aria-label={props.flush ? props.title : undefined}>
        {props.children}
      </div>
    </section>
  );
}

export interface StatItem {
  label: string;
  value: ComponentChildren;
  note?: ComponentChildren;
}

export function Stats({ items }: { items: StatItem[] }) {
  return (
    <dl class="stats">
      {items.map((item) => (
        <div key={item.label}>
          <dt>{item.label}</dt>
          <dd>{item.value}</dd>
          {item.note && <dd class="note">{item.note}</dd>}
        </div>
      ))}
    </dl>
  );
}

export function Facts({ items }: { items: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {items.map(([name, value]) => [<dt key={name}>{name}</dt>, <dd key={`${name} value`}>{value}</dd>])}
    </dl>
  );
}

export function Crumbs({ items }: { items: [string, string][] }) {
  return (
    <nav aria-label="Where you are">
      <ol class="crumbs">
        {items.map(([name, href]) => (
          <li key={href}>
            <a href={href}>{name}</a>
          </li>
        ))}
      </ol>
    </nav>
  );
}

let arrived = false;

/** Heads a page; the heading takes the focus when one page follows another, so that it is read. */
export function Head(props: { title: string; badge?: ComponentChildren; crumbs?: [string, string][]; lead?: ComponentChildren; meta?: ComponentChildren; actions?: ComponentChildren }) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${props.title} · Tribute`;
  }, [props.title]);
  useEffect(() => {
    if (arrived) heading.current?.focus({ preventScroll: true });
    arrived = true;
  }, []);
  return (
    <div class="head">
      <div>
        {props.crumbs && <Crumbs items={props.crumbs} />}
        <div class="title">
          <h1 ref={heading} tabIndex={-1}>
            {props.title}
          </h1>
          {props.badge}
        </div>
        {props.lead && <p class="lead">{props.lead}</p>}
        {props.meta && <div class="meta">{props.meta}</div>}
      </div>
      {props.actions && <div class="actions">{props.actions}</div>}
    </div>
  );
}

// --------------------------------------------------------------------- states

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="state">
      <h2>{title}</h2>
      {children && <p>{children}</p>}
    </div>
  );
}

export function Loading({ lines = 4 }: { lines?: number }) {
  return (
    <div class="stack" role="status">
      <span class="hidden">Loading…</span>
      {Array.from({ length: lines }, (_, i) => (
        <div key={i} class="skeleton" style={{ width: `${92 - ((i * 17) % 45)}%` }} />
      ))}
    </div>
  );
}

/** Tells that something does not exist, which is not the same as that something failed. */
export function NotFound({ what }: { what: string }) {
  return (
    <div class="card state">
      <Head title={`No such ${what}`} />
      <p>The index knows no {what} at this address. It may belong to another chain.</p>
      <div class="actions">
        <a class="button" href={routes.projects()}>
          All projects
        </a>
      </div>
    </div>
  );
}

export function Failure({ error, retry }: { error: ApiError; retry: () => void }) {
  return (
    <div class="card state" role="alert">
      <Head title={error.status === 429 ? "Too many requests" : "This could not be loaded"} />
      <p>{error.message}</p>
      {error.passing && <p class="soft">The page asks again by itself.</p>}
      <div class="actions">
        <button type="button" class="button" onClick={retry}>
          Try again
        </button>
      </div>
    </div>
  );
}

export function Notice({ tone, children, alert }: { tone: Tone; children: ComponentChildren; alert?: boolean }) {
  return (
    <div class="notice" data-tone={tone} role={alert ? "alert" : undefined}>
      {children}
    </div>
  );
}

// --------------------------------------------------------------------- tables

export interface Column<Row> {
  name: string;
  number?: boolean;
  cell: (row: Row) => ComponentChildren;
}

/** Lays rows out; the first column names the row. */
export function Table<Row>(props: { caption: string; columns: Column<Row>[]; rows: Row[]; id: (row: Row) => string | number }) {
  const look = (column: Column<Row>) => (column.number ? { class: "number" } : {});
  return (
    <table>
      <caption class="hidden">{props.caption}</caption>
      <thead>
        <tr>
          {props.columns.map((column) => (
            <th key={column.name} scope="col" {...look(column)}>
              {column.name}
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {props.rows.map((row) => (
          <tr key={props.id(row)}>
            {props.columns.map((column, i) =>
              i === 0 ? (
                <th key={column.name} scope="row" {...look(column)}>
                  {column.cell(row)}
                </th>
              ) : (
                <td key={column.name} {...look(column)}>
                  {column.cell(row)}
                </td>
              ),
            )}
          </tr>
        ))}
      </tbody>
    </table>
  );
}

