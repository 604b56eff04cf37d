// Turn the API's exact values into what people read. Pure: no clock, no locale of the machine.

const GROUP = /\B(?=(\d{3})+(?!\d))/g;

/** Groups the digits of a whole number: 1,234,567. */
export function integer(value: bigint | number | string): string {
  return String(value).replace("-", "−").replace(GROUP, ",");
}

/**
 * Formats smallest units as tokens with at most `digits` decimals, rounded towards zero; what is
 * too small to show becomes "<0.0001".
 */
export function amount(units: string | bigint, decimals: number, digits = 4): string {
  const value = BigInt(units);
  const sign = value < 0n ? "−" : "";
  const plain = (value < 0n ? -value : value).toString().padStart(decimals + 1, "0");
  const whole = plain.slice(0, plain.length - decimals);
  const fraction = decimals ? plain.slice(-decimals) : "";
  const shown = fraction.slice(0, digits).replace(/0+$/, "");
  if (!shown && !/[1-9]/.test(whole) && /[1-9]/.test(fraction)) {
    return `<${sign}0.${"0".repeat(Math.max(0, digits - 1))}1`;
  }
  return sign + integer(whole) + (shown ? `.${shown}` : "");
}

/** Reads what a person typed as tokens into smallest units; undefined where that is no amount. */
export function units(text: string, decimals: number): bigint | undefined {
  const found = /^(\d+)(?:\.(\d+))?$/.exec(text.trim().replace(/[\s,_]/g, ""));
  if (!found) return undefined;
  const fraction = found[2] ?? "";
  if (fraction.length > decimals) return undefined;
  return BigInt((found[1] ?? "0") + fraction.padEnd(decimals, "0"));
}

/** Formats a share of 1 in percent. */
export function percent(share: number, digits = 1): string {
  return `${(100 * share).toFixed(digits).replace("-", "−")}\u202f%`;
}

/** Formats a number of tokens on a chart's axis, where five digits are enough. */
export function plain(value: number): string {
  return String(Number(value.toPrecision(5))).replace("-", "−");
}

/** Formats part of whole in percent without losing precision on large numbers. */
export function portion(part: string | bigint, whole: string | bigint, digits = 1): string {
  const all = BigInt(whole);
  if (all === 0n) return percent(0, digits);
  return percent(Number((BigInt(part) * 1_000_000n) / all) / 1_000_000, digits);
}

/** Shortens an address, hash or CID so that it is still told apart. */
export function short(text: string, head = 6, tail = 4): string {
  return text.length <= head + tail + 1 ? text : `${text.slice(0, head)}…${text.slice(-tail)}`;
}

/** Formats seconds as people count down: 4:07, 2 h 05 min, 3 d 4 h. */
export function duration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  const two = (n: number) => String(n).padStart(2, "0");
  if (s < 3600) return `${Math.floor(s / 60)}:${two(s % 60)}`;
  if (s < 86_400) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  return `${Math.floor(s / 86_400)} d ${Math.floor((s % 86_400) / 3600)} h`;
}

/** Formats how long a window lasts: 45 s, 10 min, 2 h, 3 d. */
export function span(seconds: number): string {
  for (const [unit, name] of [
    [86_400, "d"],
    [3600, "h"],
    [60, "min"],
  ] as const) {
    if (seconds >= unit && seconds % unit === 0) return `${seconds / unit}\u202f${name}`;
  }
  if (seconds < 60) return `${seconds}\u202fs`;
  return duration(seconds);
}

/** Formats how long ago something was, coarsely. */
export function ago(seconds: number): string {
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86_400)} d ago`;
}

/** Names a count: 1 round, 3 rounds. */
export function count(n: number, noun: string): string {
  return `${integer(n)} ${noun}${n === 1 ? "" : "s"}`;
}

/** Names a project; while its description cannot be had, by its id. */
export function titleOf(project: { title: string | null; id: string }): string {
  return project.title || `Project ${short(project.id)}`;
}
