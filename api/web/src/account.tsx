// Who acts: the account that a wallet chose, and the button that has it sign something.

import { createContext, type ComponentChildren } from "preact";
import { useContext, useEffect, useRef, useState } from "preact/hooks";

import { paths, type Transactions } from "./api.ts";
import { short } from "./format.ts";
import { routes } from "./links.ts";
import { request, touch } from "./live.ts";
import { useStatus } from "./status.ts";
import { Badge, Notice, Symbol, Transaction } from "./ui.tsx";
import { accounts, reason, remember, resume, send, testWallet, watchWallets, type Receipt, type Session, type Wallet } from "./wallet.ts";

interface Acting {
  session: Session | undefined;
  choose: (session: Session | undefined) => void;
  /** opens the dialog that connects an account */
  ask: () => void;
  tell: (result: Result | undefined) => void;
}

/** What came of a transaction: its hash, or what went wrong. */
type Result = { transaction: string } | { wrong: string };

const Context = createContext<Acting | undefined>(undefined);

function useActing(): Acting {
  const found = useContext(Context);
  if (!found) throw new Error("a page was shown outside of AccountProvider");
  return found;
}

/** Returns the address that acts, if one was chosen. */
export function useAddress(): string | undefined {
  return useActing().session?.address;
}

export function AccountProvider({ children }: { children: ComponentChildren }) {
  const status = useStatus();
  const [session, setSession] = useState<Session>();
  const [open, setOpen] = useState(false);
  const [result, tell] = useState<Result>();
  const choose = (chosen: Session | undefined) => {
    remember(chosen);
    setSession(chosen);
  };
  // Who has connected meanwhile is not replaced by who acted last time.
  useEffect(() => resume(status, (found) => setSession((now) => now ?? found)), []);
  const wallet = session?.wallet;
  useEffect(() => {
    if (!wallet) return;
    const changed = ([address]: string[]) => choose(address ? { wallet, address } : undefined);
    wallet.provider.on?.("accountsChanged", changed);
    return () => {
      wallet.provider.removeListener?.("accountsChanged", changed);
    };
  }, [wallet]);
  return (
    <Context.Provider value={{ session, choose, tell, ask: () => setOpen(true) }}>
      {children}
      <Told result={result} dismiss={() => tell(undefined)} />
      {open && <Chooser close={() => setOpen(false)} />}
    </Context.Provider>
  );
}

/** Shows a result above every page: what was clicked is often gone once it is done. */
function Told({ result, dismiss }: { result: Result | undefined; dismiss: () => void }) {
  return (
    <section class="told" aria-label="Latest transaction" role="status">
      {result && (
        <Notice tone={"wrong" in result ? "bad" : "good"}>
          {"wrong" in result ? (
            result.wrong
          ) : (
            <>
              Done: <Transaction hash={result.transaction} />
            </>
          )}
          <button type="button" class="copy" aria-label="Dismiss" onClick={dismiss}>
            <Symbol name="cross" />
          </button>
        </Notice>
      )}
    </section>
  );
}

export function AccountButton() {
  const { session, ask, choose } = useActing();
  if (!session) {
    return (
      <button type="button" class="button" onClick={ask}>
        Connect
      </button>
    );
  }
  return (
    <span class="who">
      {session.wallet.test && <Badge tone="warn">test account</Badge>}
      <a href={routes.account(session.address)} title={session.address}>
        <code>{short(session.address)}</code>
      </a>
      <button type="button" class="button" onClick={() => choose(undefined)}>
        Disconnect
      </button>
    </span>
  );
}

function Chooser({ close }: { close: () => void }) {
  const status = useStatus();
  const { choose } = useActing();
  const dialog = useRef<HTMLDialogElement>(null);
  const [wallets, setWallets] = useState<Wallet[]>([]);
  const [test, setTest] = useState<{ wallet: Wallet; addresses: string[] }>();
  const [wrong, setWrong] = useState("");
  useEffect(() => {
    dialog.current?.showModal();
    const wallet = testWallet(status);
    if (wallet) {
      accounts(wallet).then(
        (addresses) => setTest({ wallet, addresses }),
        (error: unknown) => setWrong(`The devnet gives no test accounts: ${reason(error)}`),
      );
    }
    return watchWallets(setWallets);
  }, []);
  const connect = async (wallet: Wallet) => {
    try {
      const [address] = await accounts(wallet);
      if (!address) throw new Error("The wallet has no account for this page.");
      choose({ wallet, address });
      close();
    } catch (error) {
      setWrong(reason(error));
    }
  };
  return (
    <dialog ref={dialog} onClose={close} aria-labelledby="chooser">
      <div class="stack">
        <h2 id="chooser">Connect an account</h2>
        {wallets.map((wallet) => (
          <button key={wallet.id} type="button" class="button" onClick={() => void connect(wallet)}>
            {wallet.name}
          </button>
        ))}
        {!wallets.length && <p class="soft">No browser wallet announced itself to this page.</p>}
        {test && <TestAccounts addresses={test.addresses} use={(address) => (choose({ wallet: test.wallet, address }), close())} />}
        {wrong && (
          <Notice tone="bad" alert>
            {wrong}
          </Notice>
        )}
        <button type="button" class="button" onClick={close}>
          Cancel
        </button>
      </div>
    </dialog>
  );
}

function TestAccounts({ addresses, use }: { addresses: string[]; use: (address: string) => void }) {
  return (
    <form
      class="stack"
      onSubmit={(event) => {
        event.preventDefault();
        const address = new FormData(event.currentTarget).get("address");
        if (typeof address === "string") use(address);
      }}
    >
      <Notice tone="warn">
        <strong>Devnet only.</strong> Everybody knows the keys of these test accounts. They hold play money on this local chain
        and must never be used elsewhere.
      </Notice>
      <div class="field">
        <label for="address">Test account</label>
        <select id="address" name="address">
          {addresses.map((address, i) => (
            <option key={address} value={address}>
              {i} · {short(address, 10, 8)}
            </option>
          ))}
        </select>
      </div>
      <button type="submit" class="button primary">
        Use this test account
      </button>
    </form>
  );
}

export type Kind = "open" | "join" | "withdraw" | "leave" | "bond" | "release" | "expire" | "close";

interface Act {
  run: () => Promise<void>;
  /** what is being done; empty when nothing is */
  busy: string;
  /** the project that was concerned when it was done last */
  project: string | undefined;
}

/** Has the API prepare the transactions that do something, and the wallet sign and send each. */
export function useAct(kind: Kind, body: (sender: string) => object): Act {
  const { session, ask, tell } = useActing();
  const status = useStatus();
  const [busy, setBusy] = useState("");
  const [project, setProject] = useState<string>();
  const run = async () => {
    if (!session) return ask();
    tell(undefined);
    setProject(undefined);
    try {
      setBusy("Preparing");
      const prepared = await request<Transactions>(paths.prepare(kind), body(session.address));
      let receipt: Receipt | undefined;
      for (const [i, one] of prepared.transactions.entries()) {
        setBusy(`${one.purpose}, ${i + 1} of ${prepared.transactions.length}`);
        receipt = await send(session, one);
      }
      if (receipt) {
        tell({ transaction: receipt.transactionHash });
        setProject(concerned(receipt, status.marketplace));
      }
      touch();
    } catch (error) {
      tell({ wrong: reason(error) });
    } finally {
      setBusy("");
    }
  };
  return { run, busy, project };
}

/** Returns the project that a transaction concerned: the first topic of all the market's events. */
function concerned(receipt: Receipt, marketplace: string): string | undefined {
  const log = receipt.logs.find((one) => one.address.toLowerCase() === marketplace.toLowerCase());
  return log?.topics[1];
}

/** Offers to do something; without an account it first asks for one. */
export function ActButton(props: { kind: Kind; body: (sender: string) => object; primary?: boolean; children: ComponentChildren }) {
  const { run, busy } = useAct(props.kind, props.body);
  return (
    <button type="button" class={props.primary ? "button primary" : "button"} disabled={busy !== ""} onClick={() => void run()}>
      {busy ? `${busy}…` : props.children}
    </button>
  );
}
