// Draw what changes by round. Each chart is also a table, for those who cannot see it.

import uPlot from "uplot";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { useTheme } from "./theme.ts";
import { Swatch } from "./ui.tsx";

/** Names the custom property of the k-th colour; those beyond the palette share the last one. */
export function colour(k: number): string {
  return k < PALETTE ? `--s${k}` : "--rest";
}

export const PALETTE = 8;

export interface Series {
  name: string;
  colour: string;
  /** one value a round; null where there is none */
  values: (number | null)[];
}

interface ChartProps {
  label: string;
  rounds: number[];
  series: Series[];
  /** bars lie on each other, lines start where they like */
  kind: "stacked" | "lines";
  format: (value: number) => string;
  /** names of the series as shown in the legend, where they are more than text */
  legend?: (series: Series) => ComponentChildren;
}

const HEIGHT = 240;
const MOST_TICKS = 9;

export function Chart(props: ChartProps) {
  const { rounds, series, kind } = props;
  const holder = useRef<HTMLDivElement>(null);
  const [pointed, setPointed] = useState<number | null>(null);
  const theme = useTheme();
  const format = useRef(props.format);
  format.current = props.format;

  useEffect(() => {
    const element = holder.current;
    if (!element || !rounds.length) return;
    const plot = draw(element, rounds, series, kind, (value) => format.current(value), setPointed);
    const watch = new ResizeObserver(() => plot.setSize({ width: element.clientWidth, height: HEIGHT }));
    watch.observe(element);
    return () => {
      watch.disconnect();
      plot.destroy();
    };
    // The data's content decides, not its identity: answers are fetched again all the time.
  }, [JSON.stringify([rounds, series]), kind, theme]);

  // The legend tells the round that is pointed at, else the latest one.
  const at = pointed ?? rounds.length - 1;
  const value = (one: Series, i: number) => {
    const found = one.values[i];
    return found === null || found === undefined ? "–" : props.format(found);
  };
  return (
    <figure>
      <div class="chart" ref={holder} role="img" aria-label={props.label} />
      <figcaption>
        <ul class="legend plain">
          <li class="soft">round {rounds[at]}</li>
          {series.filter(shows).map((one) => (
            <li key={one.name} class="who">
              <Swatch colour={one.colour} />
              {props.legend ? props.legend(one) : one.name}
              <strong>{value(one, at)}</strong>
            </li>
          ))}
        </ul>
        <details>
          <summary>As a table</summary>
          <div class="scroll" tabIndex={0} role="group" aria-label={`${props.label}, as a table`}>
            <table>
              <caption class="hidden">{props.label}</caption>
              <thead>
                <tr>
                  <th scope="col">Round</th>
                  {series.map((one) => (
                    <th key={one.name} scope="col" class="number">
                      {one.name}
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {rounds.map((round, i) => (
                  <tr key={round}>
                    <th scope="row">{round}</th>
                    {series.map((one) => (
                      <td key={one.name} class="number">
                        {value(one, i)}
                      </td>
                    ))}
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        </details>
      </figcaption>
    </figure>
  );
}

/** Tells whether a series has anything to be seen, and so a place in the legend. */
function shows(series: Series): boolean {
  return series.values.some(Boolean);
}

function draw(
  element: HTMLElement,
  rounds: number[],
  series: Series[],
  kind: ChartProps["kind"],
  format: (value: number) => string,
  hover: (at: number | null) => void,
): uPlot {
  const tint = (name: string) => resolve(element, name);
  const stacked = kind === "stacked";
  // The highest stack is drawn first and the others over it, so that each shows its own part.
  const shown = stacked ? pile(series) : series.map((one) => one.values);
  const order = [...series.keys()];
  if (stacked) order.reverse();
  const step = Math.ceil(rounds.length / MOST_TICKS);
  const axis = { stroke: tint("--soft"), font: '12px "Inter Variable", sans-serif', ticks: { show: false } };
  const bars = uPlot.paths.bars?.({ size: [0.62, 56, 3] });
  const lines = uPlot.paths.linear?.();
  return new uPlot(
    {
      width: element.clientWidth,
      height: HEIGHT,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: !stacked } },
      scales: {
        x: { time: false, range: [Math.min(...rounds) - 0.6, Math.max(...rounds) + 0.6] },
        y: { range: (_, low, high) => (stacked ? [0, high > 0 ? high * 1.06 : 1] : around(low, high)) },
      },
      axes: [
        {
          ...axis,
          size: 30,
          grid: { show: false },
          splits: () => rounds.filter((_, i) => i % step === 0),
          values: (_, splits) => splits.map(String),
        },
        {
          ...axis,
          size: 64,
          grid: { stroke: tint("--line"), width: 1 },
          values: (_, splits) => splits.map((value) => format(value)),
        },
      ],
      series: [
        {},
        ...order.map((k): uPlot.Series => {
          const stroke = tint(series[k]?.colour ?? "--rest");
          const paths = stacked ? bars : lines;
          return {
            ...(stacked ? { fill: stroke, width: 0 } : { stroke, width: 2 }),
            ...(paths ? { paths } : {}),
            points: { show: !stacked, size: 7, fill: stroke, stroke },
          };
        }),
      ],
      hooks: { setCursor: [(plot) => hover(plot.cursor.idx ?? null)] },
    },
    [rounds, ...order.map((k) => shown[k] ?? [])] as uPlot.AlignedData,
    element,
  );
}

/** Adds each series to those below it. */
export function pile(series: readonly Series[]): number[][] {
  const below: number[] = [];
  return series.map((one) =>
    one.values.map((value, i) => {
      below[i] = (below[i] ?? 0) + (value ?? 0);
      return below[i];
    }),
  );
}

function around(low: number, high: number): [number, number] {
  const room = Math.max((high - low) * 0.12, 0.01);
  return [low - room, high + room];
}

/** Returns a custom property as the colour it comes to in the present theme. */
function resolve(element: HTMLElement, property: string): string {
  const probe = document.createElement("span");
  probe.style.color = `var(${property})`;
  element.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
