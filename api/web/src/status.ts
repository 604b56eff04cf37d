// Hand the server's status to every page; it is known before any of them is shown.

import { createContext } from "preact";
import { useContext } from "preact/hooks";

import type { Status } from "./api.ts";

export const StatusContext = createContext<Status | undefined>(undefined);

export function useStatus(): Status {
  const found = useContext(StatusContext);
  if (!found) throw new Error("a page was shown before the server's status was known");
  return found;
}
