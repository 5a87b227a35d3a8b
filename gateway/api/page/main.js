// The page: it asks again and again, shows what it is told, and says how old that is.

import { Problem, ask, follow, keepToken, token } from "./api.js";
import { h, morph } from "./dom.js";
import { duration } from "./format.js";
import * as pools from "./pools.js";
import { Records } from "./records.js";
import * as views from "./views.js";

const ASK_EVERY = 2000; // milliseconds
const ASK_AT_LEAST_EVERY = 4000;
const ASK_EVERY_UNSEEN = 15000;
const TREND_EVERY = 5000;
const STALE_AFTER = 7; // seconds without an answer, after which nothing is shown as current
const MOST_EVENTS = 1000;

const $ = (id) => document.getElementById(id);
const view = $("view");
const records = new Records();

const state = {
  overview: null,
  heardAt: 0, // by the page's own clock, in seconds
  problem: null,
  events: [],
  following: false,
  eventsProblem: "",
  moves: [],
  movesProblem: "",
  trend: null,
  trendProblem: null,
  range: "quarter",
  level: "all",
  wantsToken: false,
};

const clock = () => performance.now() / 1000;

function route() {
  try {
    return location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    return [];
  }
}

// What is known of now: how old it is, and whether it may be shown as current.

function isStale() {
  return state.problem !== null || clock() - state.heardAt > STALE_AFTER;
}

function contextNow() {
  const stale = isStale();
  return {
    // Of what is old, how long it has lasted is not known any more.
    now: state.overview.at + (stale ? 0 : clock() - state.heardAt),
    stale,
    carries: state.overview.carries,
    width: view.clientWidth - 2 * Number.parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--inset")) || 320,
  };
}

// Showing.

let shownRoute = null;

function show() {
  showHeader();
  if (state.wantsToken || state.overview === null) return;
  const context = contextNow();
  document.body.classList.toggle("stale", context.stale);
  const names = route();
  const fresh = h("main", {}, contentOf(names, context));
  const at = names.join("/");
  if (shownRoute !== at) {
    view.replaceChildren();
    view.scrollTop = 0;
  }
  morph(view, fresh);
  if (shownRoute !== at) {
    if (shownRoute !== null) arrive();
    shownRoute = view.dataset.shown = at;
    nameThePage();
  }
}

function contentOf(names, context) {
  const [what, tenant, other] = names;
  switch (what) {
    case "sites":
      return other ? views.site(state, context, tenant, other) : views.sites(state, context);
    case "tenants":
      return other ? views.subnet(state, context, tenant, other) : tenant ? views.tenant(state, context, tenant) : views.tenants(state, context);
    case "records":
      return records.view(state.overview);
    case "pools":
      return pools.view(state, context);
    case "drops":
      return views.drops(state, context);
    case "events":
      return views.events(state, context);
    default:
      return views.network(state, context);
  }
}

/** Whoever goes to another view by keyboard or screen reader is put at its heading. */
function arrive() {
  window.scrollTo(0, 0);
  view.querySelector("h1")?.focus({ preventScroll: true });
}

function nameThePage() {
  // A title is of what is looked at, not of how that is.
  const heading = [...(view.querySelector("h1")?.childNodes ?? [])]
    .filter((node) => !node.classList?.contains("badge"))
    .map((node) => node.textContent)
    .join("")
    .trim();
  const name = state.overview?.status.name ?? "";
  document.title = [heading, name, "Isthmus"].filter(Boolean).join(" · ");
  const [what = "network"] = route();
  for (const link of $("nav").querySelectorAll("a")) {
    if (link.dataset.view === what) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showHeader() {
  const { overview, problem } = state;
  $("leave").hidden = token() === null || state.wantsToken;
  $("nav").hidden = overview === null || state.wantsToken;
  if (overview !== null) {
    setText($("name"), overview.status.name);
    setText($("about"), `${overview.status.roles.join(", ")} · Isthmus ${overview.status.version} · up ${duration(overview.at + clock() - state.heardAt - overview.status.started_at)}`);
  }
  const age = clock() - state.heardAt;
  const stale = isStale();
  if (overview === null || state.wantsToken) {
    setText($("heard"), "");
    $("banner").hidden = problem === null || state.wantsToken;
    if (problem !== null) setText($("banner"), `${words(problem)}; asking again.`);
    return;
  }
  $("heard").classList.toggle("is-lost", stale);
  setText($("heard"), stale ? `last heard ${duration(age)} ago` : age < 3 ? "live" : `heard ${duration(age)} ago`);
  $("banner").hidden = !stale;
  // The words of an alert are spoken whenever they change: so the age, which changes each second, is not in them.
  if (stale) setText($("banner"), `${problem ? words(problem) : "No answer"}. What is below is old: it is not how the network is now.`);
}

function words(problem) {
  if (problem.status === 0) return `The appliance does not answer: ${problem.message}`;
  if (problem.status === 429) return "The appliance asks for patience: too many attempts failed from here";
  if (problem.status === 503) return `The appliance cannot answer yet: ${problem.message}`;
  return `The appliance refuses (${problem.status}): ${problem.message}`;
}

// A token, where one is wanted.

function askForToken(problem) {
  state.wantsToken = true;
  state.overview = null;
  shownRoute = null;
  document.body.classList.remove("stale");
  document.title = "Sign in · Isthmus";
  const tried = token() !== null;
  keepToken(null);
  if (view.querySelector("#token-form") && !tried) return;
  const said = tried ? (problem.status === 403 ? `This token is not for this page: ${problem.message}` : "The appliance does not know this token.") : "";
  const form = h(
    "form",
    { id: "token-form", class: "card sign-in" },
    h("h1", { tabindex: "-1" }, "Sign in"),
    h("label", { for: "token" }, "Token"),
    h("input", { id: "token", name: "token", type: "password", autocomplete: "current-password", required: true, spellcheck: "false", "aria-describedby": said ? "token-why token-about" : "token-about", "aria-invalid": said ? "true" : null }),
    said ? h("p", { id: "token-why", class: "why", role: "alert" }, said) : null,
    h("p", { id: "token-about", class: "dim" }, "That of a reader or an operator, from a [[api.token]] or [[lookup.token]] of appliance.toml. It stays in this tab, and goes when the tab is closed."),
    h("button", { type: "submit" }, "Show the network"),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const value = form.elements.token.value.trim();
    // A header takes these characters alone.
    if (!/^[!-~]+$/.test(value)) return;
    keepToken(value);
    state.wantsToken = false;
    state.problem = null;
    restart();
  });
  view.replaceChildren(form);
  form.elements.token.focus();
  showHeader();
}

// Asking.

let asking = 0;
let following = null;

async function askAlways(run) {
  while (run === asking) {
    const begun = performance.now();
    try {
      const overview = await ask("/v1/overview");
      if (run !== asking) return;
      const first = state.overview === null;
      state.overview = overview;
      state.heardAt = clock();
      state.problem = null;
      speak();
      if (first) {
        view.replaceChildren();
        void followEvents(run);
        void askTrend(run);
      }
      if (first || overview.at - (state.movesAt ?? 0) >= 4) void askMoves(run);
    } catch (problem) {
      if (run !== asking) return;
      if (problem instanceof Problem && (problem.status === 401 || problem.status === 403)) {
        asking += 1;
        following?.abort();
        askForToken(problem);
        return;
      }
      if (!(problem instanceof Problem)) throw problem;
      state.problem = problem;
    }
    showSoon();
    const every = document.hidden ? ASK_EVERY_UNSEEN : ASK_EVERY;
    // Who is slow to answer, as of a large network, is asked less often.
    const slowly = Math.min(ASK_AT_LEAST_EVERY, 10 * (performance.now() - begun));
    await pause(Math.max(every, slowly, 1000 * (state.problem?.retryAfter ?? 0)));
  }
}

function pause(milliseconds) {
  return new Promise((done) => {
    const timer = setTimeout(done, milliseconds);
    document.addEventListener("visibilitychange", () => {
      clearTimeout(timer);
      done();
    }, { once: true });
  });
}

let spoken = "";

/** Say politely how it is, when that changes. */
function speak() {
  const { words: verdict } = views.verdictOf(state.overview);
  if (verdict === spoken) return;
  setText($("spoken"), spoken === "" ? "" : verdict);
  spoken = verdict;
}

async function followEvents(run) {
  following?.abort();
  const abort = (following = new AbortController());
  state.events = [];
  let since = 0;
  let number = 0;
  const take = (event) => {
    since = Math.max(since, event.at);
    number += 1;
    state.events.unshift({ ...event, key: `${event.at}-${number}` });
    state.events.length = Math.min(state.events.length, MOST_EVENTS);
    if (event.event === "moved") void askMoves(run);
    showSoon();
  };
  while (run === asking) {
    try {
      state.following = true;
      state.eventsProblem = "";
      await follow(`/v1/events?${new URLSearchParams({ follow: "true", since: String(since) })}`, take, abort.signal);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      state.eventsProblem = problem.message;
    }
    state.following = false;
    await pause(TREND_EVERY);
  }
}

async function askMoves(run) {
  state.movesAt = state.overview?.at ?? 0;
  try {
    const found = await ask("/v1/moves");
    if (run !== asking) return;
    state.moves = found.map((move) => ({ ...move, key: `${move.vsid}-${move.mac}-${move.epoch}` }));
    state.movesProblem = "";
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    state.movesProblem = problem.message;
  }
  showSoon();
}

async function askTrend(run) {
  while (run === asking) {
    const [what, tenant, other] = route();
    if (other && (what === "sites" || what === "tenants")) {
      const kind = what === "sites" ? "site" : "subnet";
      const of = kind === "site" ? `${tenant}/${other}` : `${tenant}//${other}`;
      try {
        const value = await ask(`/v1/trends?${new URLSearchParams({ tenant, [kind]: other })}`);
        if (run === asking) state.trend = { of, value };
        state.trendProblem = null;
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        state.trendProblem = problem.message;
      }
      showSoon();
    }
    await Promise.race([pause(TREND_EVERY), new Promise((done) => window.addEventListener("hashchange", done, { once: true }))]);
  }
}

function restart() {
  asking += 1;
  state.overview = null;
  state.trend = null;
  state.moves = [];
  spoken = "";
  view.replaceChildren(h("p", { class: "card" }, "Asking …"));
  void askAlways(asking);
}

let due = false;

/** However much happens at once, it is shown once. */
function showSoon() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    show();
  });
}

window.addEventListener("hashchange", show);
window.addEventListener("resize", showSoon);
$("leave").addEventListener("click", () => {
  asking += 1;
  following?.abort();
  keepToken(null);
  askForToken(new Problem(401, ""));
});
view.addEventListener("click", (event) => {
  // For whoever points at the picture; the tables below it have the same as links.
  const led = event.target.closest("[data-go]");
  if (led) location.hash = led.dataset.go;
  const button = event.target.closest("button[data-range], button[data-level]");
  if (button?.dataset.range) state.range = button.dataset.range;
  if (button?.dataset.level) state.level = button.dataset.level;
  if (button) show();
});
setInterval(() => {
  showHeader();
  if (state.overview !== null && document.body.classList.contains("stale") !== isStale()) showSoon();
}, 1000);
restart();
