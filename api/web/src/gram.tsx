// Show a round's Gram matrix: a table whose cells are coloured, so that it is a heat map to look at
// and a table to everything else.

import { useState } from "preact/hooks";

import { integer, short } from "./format.ts";
import { Badge, Swatch } from "./ui.tsx";

export interface GramRow {
  trainer: string;
  colour: string;
  mark: "" | "outlier" | "root";
}

/** From here on, cells are too small for numbers, and the matrix takes the width of the page. */
export const DENSE_FROM = 17;

/** Writes a cosine with two digits, and no sign where they are all zero. */
function cosine(value: number): string {
  return value.toFixed(2).replace("-0.00", "0.00").replace("-", "−");
}

/** Colours a value from −1 to 1: warm below zero, cool above. */
function paint(value: number): { background: string; color: string } {
  const strength = Math.round(100 * Math.abs(value) ** 0.8);
  const hue = value < 0 ? "var(--warm)" : "var(--cool)";
  return {
    background: `color-mix(in oklab, ${hue} ${strength}%, var(--raised))`,
    color: strength > 62 ? "var(--on-heat)" : "var(--ink)",
  };
}

export function Gram({ rows, matrix, cosines }: { rows: GramRow[]; matrix: string[][]; cosines: number[][] }) {
  const [exact, setExact] = useState(false);
  const dense = rows.length >= DENSE_FROM;
  const cell = dense ? (rows.length > 48 ? "8px" : "14px") : exact ? "104px" : "46px";
  return (
    <div>
      <div class="next">
        <div class="segments" role="group" aria-label="What the cells show">
          <button type="button" aria-pressed={!exact} onClick={() => setExact(false)}>
            Cosine
          </button>
          <button type="button" aria-pressed={exact} onClick={() => setExact(true)}>
            Inner product
          </button>
        </div>
        <div class="scale" aria-hidden="true">
          <span>opposed −1</span>
          <span />
          <span>+1 aligned</span>
        </div>
      </div>
      <div class="gram" style={{ "--cell": cell }} tabIndex={0} role="group" aria-label="Gram matrix, scrolls sideways">
        <table class={dense ? "dense" : ""}>
          <caption class="hidden">
            Gram matrix of the round: {exact ? "inner products of the updates, in steps squared" : "cosines between the updates"}
          </caption>
          <thead>
            <tr>
              <th scope="col">
                <span class="hidden">Trainer</span>
              </th>
              {rows.map((row) => (
                <th key={row.trainer} scope="col" title={row.trainer}>
                  <Swatch colour={row.colour} />
                  <span class="hidden">{short(row.trainer)}</span>
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row, i) => (
              <tr key={row.trainer}>
                <th scope="row">
                  <span class="who">
                    <Swatch colour={row.colour} />
                    <code title={row.trainer}>{short(row.trainer)}</code>
                    {row.mark && (dense ? <strong class="mark">{row.mark}</strong> : <Badge tone={row.mark === "root" ? "accent" : "bad"}>{row.mark}</Badge>)}
                  </span>
                </th>
                {rows.map((other, j) => {
                  const value = cosines[i]?.[j] ?? 0;
                  const product = integer(matrix[i]?.[j] ?? "0");
                  const near = cosine(value);
                  return (
                    <td
                      key={other.trainer}
                      data-dense={dense}
                      style={paint(value)}
                      title={`${short(row.trainer)} · ${short(other.trainer)}\ncosine ${near}, inner product ${product}`}
                    >
                      {exact ? product : near}
                    </td>
                  );
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </div>
  );
}
