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
  info: { uuid: string; name: string };
  provider: Provider;
}

/** Returns the wallets that the browser has, by name. */
export function injected(): Wallet[] {
  const found = new Map<string, Wallet>();
  const listen = (event: Event) => {
    const { info, provider } = (event as CustomEvent<Announcement>).detail;
    found.set(info.uuid, { name: info.name.slice(0, 40), test: false, provider });
  };
  addEventListener("eip6963:announceProvider", listen);
  dispatchEvent(new Event("eip6963:requestProvider"));
  removeEventListener("eip6963:announceProvider", listen);
  if (!found.size && window.ethereum) {
    found.set("", { name: "Browser wallet", test: false, provider: window.ethereum });
  }
  return [...found.values()];
}

/** Returns the devnet's own accounts as a wallet; undefined on any other chain. */
export function testWallet(status: Status): Wallet | undefined {
  if (!status.devnet || status.chain_id !== DEVNET_CHAIN || !status.rpc) return undefined;
  const rpc = status.rpc;
  let id = 0;
  return {
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

/** Asks a wallet for its accounts. */
export async function accounts(wallet: Wallet): Promise<string[]> {
  const found = await wallet.provider.request({ method: wallet.test ? "eth_accounts" : "eth_requestAccounts" });
  if (!Array.isArray(found) || !found.every((one) => typeof one === "string")) throw new Error("The wallet gave no accounts.");
  return found;
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
