// Let a wallet sign what the API prepared. No key is held here and none is ever asked for.
//
// Wallets announce themselves (EIP-6963) or stand at window.ethereum (EIP-1193). On a devnet, and
// nowhere else, the chain's own unlocked test accounts can act instead.

import type { Status, UnsignedTransaction } from "./api.ts";

export interface Provider {
  request(args: { method: string; params?: unknown[] }): Promise<unknown>;
  on?(event: "accountsChanged", listener: (accounts: string[]) => void): unknown;
  removeListener?(event: "accountsChanged", listener: (accounts: string[]) => void): unknown;
}

export interface Wallet {
  /** stays the same from visit to visit */
  id: string;
  name: string;
  test: boolean;
  provider: Provider;
}

export interface Session {
  wallet: Wallet;
  address: string;
}

const DEVNET_CHAIN = 31337;

declare global {
  interface Window {
    ethereum?: Provider;
  }
}

interface Announcement {
  info: { uuid: string; rdns?: string; name: string };
  provider: Provider;
}

/** Tells of the wallets that the browser has, again whenever another one announces itself; returns what ends that. */
export function watchWallets(tell: (wallets: Wallet[]) => void): () => void {
  const found = new Map<string, Wallet>();
  const listen = (event: Event) => {
    const { info, provider } = (event as CustomEvent<Announcement>).detail;
    // The uuid is another one in every page; the domain stays.
    found.set(info.uuid, { id: info.rdns ?? info.name, name: info.name.slice(0, 40), test: false, provider });
    tell([...found.values()]);
  };
  addEventListener("eip6963:announceProvider", listen);
  dispatchEvent(new Event("eip6963:requestProvider"));
  if (!found.size && window.ethereum) {
    tell([{ id: "window.ethereum", name: "Browser wallet", test: false, provider: window.ethereum }]);
  }
  return () => removeEventListener("eip6963:announceProvider", listen);
}

/** Returns the devnet's own accounts as a wallet; undefined on any other chain. */
export function testWallet(status: Status): Wallet | undefined {
  if (!status.devnet || status.chain_id !== DEVNET_CHAIN || !status.rpc) return undefined;
  const rpc = status.rpc;
  let id = 0;
  return {
    id: "test",
    name: "Test account",
    test: true,
    provider: {
      async request({ method, params = [] }) {
        const response = await fetch(rpc, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: JSON.stringify({ jsonrpc: "2.0", id: ++id, method, params }),
        });
        const answer = (await response.json()) as { result?: unknown; error?: { message: string } };
        if (answer.error) throw new Error(answer.error.message);
        return answer.result;
      },
    },
  };
}

/** Asks a wallet for its accounts; `quietly` those that it gave this page before, without a prompt. */
export async function accounts(wallet: Wallet, quietly = false): Promise<string[]> {
  const method = wallet.test || quietly ? "eth_accounts" : "eth_requestAccounts";
  const found = await wallet.provider.request({ method });
  if (!Array.isArray(found) || !found.every((one) => typeof one === "string")) throw new Error("The wallet gave no accounts.");
  return found;
}

const KEPT = "tribute-account";

/** Remembers who acts for the next visit, or forgets it. */
export function remember(session: Session | undefined): void {
  try {
    if (session) localStorage.setItem(KEPT, JSON.stringify({ wallet: session.wallet.id, address: session.address }));
    else localStorage.removeItem(KEPT);
  } catch {
    return; // A browser may refuse storage; the account is then chosen anew in each visit.
  }
}

/** Finds the account that acted last time, if its wallet still gives it to this page; returns what ends the search. */
export function resume(status: Status, found: (session: Session) => void): () => void {
  const { wallet: id, address } = kept();
  let over = id === undefined;
  const ask = async (wallet: Wallet) => {
    const given = wallet.id === id ? await accounts(wallet, true).catch(() => []) : [];
    const same = given.find((one) => one.toLowerCase() === address?.toLowerCase());
    if (over || !same) return;
    over = true;
    found({ wallet, address: same });
  };
  const test = testWallet(status);
  if (test && !over) void ask(test);
  const end = over ? () => {} : watchWallets((wallets) => wallets.forEach((wallet) => void ask(wallet)));
  return () => {
    over = true;
    end();
  };
}

function kept(): { wallet?: string; address?: string } {
  try {
    const { wallet, address } = JSON.parse(localStorage.getItem(KEPT) ?? "{}") as { wallet?: unknown; address?: unknown };
    return typeof wallet === "string" && typeof address === "string" ? { wallet, address } : {};
  } catch {
    return {};
  }
}

export interface Receipt {
  status: string;
  transactionHash: string;
  logs: { address: string; topics: string[] }[];
}

/** Has the wallet sign and send a transaction; returns its receipt once it is in a block. */
export async function send(session: Session, prepared: UnsignedTransaction): Promise<Receipt> {
  const { provider } = session.wallet;
  const chain = await provider.request({ method: "eth_chainId" });
  if (BigInt(chain as string) !== BigInt(prepared.chainId)) {
    throw new Error(`The wallet is on chain ${BigInt(chain as string)}, the market on chain ${BigInt(prepared.chainId)}.`);
  }
  const hash = (await provider.request({ method: "eth_sendTransaction", params: [forWallet(prepared)] })) as string;
  for (let tries = 0; tries < 240; tries++) {
    const receipt = (await provider.request({ method: "eth_getTransactionReceipt", params: [hash] })) as Receipt | null;
    if (receipt) {
      if (BigInt(receipt.status) !== 1n) throw new Error(`The chain refused transaction ${hash}.`);
      return receipt;
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
  throw new Error(`Transaction ${hash} is in no block yet.`);
}

/** Leaves out what wallets know better: the nonce, and a gas limit that could not be estimated. */
function forWallet(prepared: UnsignedTransaction): Record<string, string> {
  const { purpose: _, nonce: __, gas, ...fields } = prepared;
  return gas === null ? fields : { ...fields, gas };
}

/** Says what went wrong in a wallet in one sentence. */
export function reason(error: unknown): string {
  if (typeof error === "object" && error !== null) {
    const { code, message } = error as { code?: unknown; message?: unknown };
    if (code === 4001) return "You declined in the wallet.";
    if (typeof message === "string") return message.slice(0, 300);
  }
  return String(error).slice(0, 300);
}
