// The shell around every page: bar, banner, routing, footer.

import { Component, render, type ComponentChildren, type VNode } from "preact";
import { useEffect, useState } from "preact/hooks";

import "./style/ground.css";
import "./style/parts.css";
import "./style/views.css";
import { AccountButton, AccountProvider } from "./account.tsx";
import { paths, type Status } from "./api.ts";
import { integer } from "./format.ts";
import { parse, routes, type Route } from "./links.ts";
import { follow, setChainTime, touch, useAnswer, useConnected } from "./live.ts";
import { AccountPage } from "./pages/account.tsx";
import { ExplainPage } from "./pages/explain.tsx";
import { OpenPage } from "./pages/open.tsx";
import { ProjectPage } from "./pages/project.tsx";
import { ProjectsPage } from "./pages/projects.tsx";
import { RoundPage } from "./pages/round.tsx";
import { TrainerPage } from "./pages/trainer.tsx";
import { StatusContext } from "./status.ts";
import { startTheme, toggleTheme, useTheme } from "./theme.ts";
import { Failure, Head, Loading, NotFound, Symbol } from "./ui.tsx";

function useRoute(): Route {
  const [route, setRoute] = useState(() => parse(location.hash));
  useEffect(() => {
    const moved = () => {
      setRoute(parse(location.hash));
      scrollTo(0, 0);
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  return route;
}

/** Loaded when asked for: few visitors of the first view want it. */
function ReferencePage() {
  const [Found, setFound] = useState<() => VNode>();
  useEffect(() => {
    void import("./pages/reference.tsx").then((found) => setFound(() => found.default));
  }, []);
  return Found ? <Found /> : <Loading lines={10} />;
}

function Page({ route }: { route: Route }) {
  const { id = "", round = "", trainer = "", address = "" } = route.params;
  switch (route.page) {
    case "projects":
      return <ProjectsPage />;
    case "project":
      return <ProjectPage id={id} />;
    case "round":
      return <RoundPage id={id} round={round} />;
    case "explain":
      return <ExplainPage id={id} round={round} trainer={trainer} />;
    case "trainer":
      return <TrainerPage id={id} address={trainer} />;
    case "account":
      return <AccountPage address={address} />;
    case "open":
      return <OpenPage />;
    case "reference":
      return <ReferencePage />;
    case "unknown":
      return <NotFound what="page" />;
  }
}

/** Shows what failed in a page instead of an empty window. */
class Guard extends Component<{ children: ComponentChildren }, { failed: boolean }> {
  override state = { failed: false };
  override componentDidCatch(error: unknown): void {
    console.error(error);
    this.setState({ failed: true });
  }
  override render() {
    if (!this.state.failed) return this.props.children;
    return (
      <div class="card state" role="alert">
        <Head title="This page failed" />
        <p>The rest of the dashboard still works; the browser's console says more.</p>
      </div>
    );
  }
}

function ThemeButton() {
  const now = useTheme();
  return (
    <button type="button" class="icon" onClick={toggleTheme} aria-label={now === "dark" ? "Use light colours" : "Use dark colours"}>
      <Symbol name={now === "dark" ? "sun" : "moon"} />
    </button>
  );
}

function Bar({ page }: { page: Route["page"] }) {
  return (
    <header class="bar">
      <div class="wide">
        <a class="brand" href={routes.projects()}>
          <img src="/icon.svg" alt="" />
          Tribute
        </a>
        <nav aria-label="Main">
          <a href={routes.projects()} aria-current={page === "projects" ? "page" : undefined}>
            Projects
          </a>
          <a href={routes.open()} aria-current={page === "open" ? "page" : undefined}>
            Open a project
          </a>
        </nav>
        <ThemeButton />
        <AccountButton />
      </div>
    </header>
  );
}

/** Says what must not be overlooked: play money, a broken reference string, an old index. */
function Warnings({ status }: { status: Status }) {
  const told = [
    status.devnet && (
      <p key="devnet">
        <strong>Insecure devnet.</strong> Keys and the reference string of this local chain are known to everybody; its tokens
        are worth nothing.
      </p>
    ),
    !status.devnet && status.srs_insecure && (
      <p key="srs">
        <strong>Insecure reference string.</strong> Somebody knows its secret, so commitments and proofs bind nobody here.
      </p>
    ),
    status.failure !== null && (
      <p key="index">
        <strong>Not up to date.</strong> The index stopped at block {integer(status.indexed_block)}: {status.failure}
      </p>
    ),
  ].filter(Boolean);
  if (!told.length) return null;
  return (
    <aside class="warnings" aria-label="Warning">
      <div class="wide">{told}</div>
    </aside>
  );
}

function Footer({ status }: { status: Status }) {
  const connected = useConnected();
  return (
    <footer>
      <div class="wide">
        <span class="live" data-on={connected} role="status">
          {connected ? "Live" : "Reconnecting…"}
        </span>
        <span>Chain {status.chain_id}</span>
        <span>Block {integer(status.indexed_block)}</span>
        <span>The contract decides; these pages only show it.</span>
        <a href={routes.reference()}>API</a>
      </div>
    </footer>
  );
}

function App() {
  const route = useRoute();
  const status = useAnswer<Status>(paths.status());
  const time = status.data?.head_time;
  useEffect(() => {
    if (time) setChainTime(time);
  }, [time]);
  if (!status.data) {
    return (
      <main class="wide">
        {status.error ? <Failure error={status.error} retry={() => touch()} /> : <Loading />}
      </main>
    );
  }
  return (
    <StatusContext.Provider value={status.data}>
    <AccountProvider>
      <button type="button" class="skip" onClick={() => document.querySelector("h1")?.focus()}>
        Skip to content
      </button>
      <Bar page={route.page} />
      <Warnings status={status.data} />
      <main class="wide" id="content">
        <Guard key={JSON.stringify(route)}>
          <Page route={route} />
        </Guard>
      </main>
      <Footer status={status.data} />
    </AccountProvider>
    </StatusContext.Provider>
  );
}

startTheme();
follow();
const root = document.getElementById("app");
if (root) render(<App />, root);
