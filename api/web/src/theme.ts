// Light, dark, or what the system prefers. The choice is kept in the browser.

import { useEffect, useReducer } from "preact/hooks";

export type Theme = "light" | "dark";

const KEY = "theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const watchers = new Set<() => void>();

function kept(): Theme | undefined {
  try {
    const found = localStorage.getItem(KEY);
    return found === "light" || found === "dark" ? found : undefined;
  } catch {
    return undefined; // A browser may refuse storage; the system's preference then holds.
  }
}

/** Returns what is shown now. */
export function theme(): Theme {
  return kept() ?? (system.matches ? "dark" : "light");
}

function apply(): void {
  const chosen = kept();
  if (chosen) document.documentElement.dataset["theme"] = chosen;
  else delete document.documentElement.dataset["theme"];
  for (const watcher of watchers) watcher();
}

/** Shows the other one from now on. */
export function toggleTheme(): void {
  try {
    localStorage.setItem(KEY, theme() === "dark" ? "light" : "dark");
  } catch {
    return;
  }
  apply();
}

export function startTheme(): void {
  system.addEventListener("change", apply);
  apply();
}

/** Returns what is shown, and renders again when it changes. */
export function useTheme(): Theme {
  const [, rerender] = useReducer((n: number, _: void) => n + 1, 0);
  useEffect(() => {
    const watcher = () => rerender(undefined);
    watchers.add(watcher);
    return () => {
      watchers.delete(watcher);
    };
  }, []);
  return theme();
}
