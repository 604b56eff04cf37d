// Write tables as CSV (RFC 4180), with amounts exact to the last unit. Pure.

export type Value = string | number | null;

/** Writes a header and rows; what a spreadsheet would take for a formula becomes text. */
export function csv(header: readonly string[], rows: readonly (readonly Value[])[]): string {
  return [header, ...rows].map((row) => row.map(cell).join(",") + "\r\n").join("");
}

function cell(value: Value): string {
  if (value === null) return "";
  if (typeof value === "number") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) && !/^-?[0-9.]+$/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Writes smallest units as a plain decimal number of tokens, every digit of it. */
export function exact(units: string, decimals: number): string {
  const digits = units.padStart(decimals + 1, "0");
  const whole = digits.slice(0, digits.length - decimals);
  const fraction = decimals ? digits.slice(-decimals).replace(/0+$/, "") : "";
  return fraction ? `${whole}.${fraction}` : whole;
}

/** Writes unix seconds as a date and time of UTC; nothing where there is none yet. */
export function moment(seconds: number): string | null {
  return seconds ? new Date(1000 * seconds).toISOString().slice(0, 19) + "Z" : null;
}
