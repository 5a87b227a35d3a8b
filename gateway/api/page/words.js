// The small things that every view is made of: a state as shape and word, a table, a time, a rate.

import { h, s } from "./dom.js";
import { duration, iso, moment, perSecond, rate } from "./format.js";

const SHAPES = {
  up: () => s("circle", { cx: 8, cy: 8, r: 5.5 }),
  down: () => s("path", { d: "M3.5 3.5l9 9m0-9l-9 9", class: "line" }),
  connecting: () => [s("circle", { cx: 8, cy: 8, r: 5, class: "line thin" }), s("path", { d: "M8 2.5a5.5 5.5 0 0 1 0 11z" })],
  waiting: () => s("circle", { cx: 8, cy: 8, r: 4.7, class: "line" }),
  elsewhere: () => s("path", { d: "M2.5 8h8m-3.5-3.5L10.5 8 7 11.5", class: "line" }),
  bad: () => s("path", { d: "M3.5 3.5l9 9m0-9l-9 9", class: "line" }),
  warning: () => s("path", { d: "M8 2.2L14.4 13.5H1.6zM8 6.4v3.2m0 1.9v.2", class: "line thin" }),
  note: () => s("path", { d: "M8 7.2v4.6m0-7.4v.2", class: "line" }),
};

/** A shape for a state, for beside its word. */
export function shape(state) {
  const drawn = SHAPES[state] ?? SHAPES.waiting;
  return s("svg", { viewBox: "0 0 16 16", class: `shape is-${state}`, "aria-hidden": "true", focusable: "false" }, drawn());
}

/** A site's state: shape and word. What is old is said to be. */
export function badge(state, context) {
  const word = state === "elsewhere" ? "by another gateway" : state;
  return h("span", { class: `badge is-${state}` }, shape(state), context.stale ? `was ${word}` : word);
}

/**
 * How a site is: its own state, or that another gateway dials it. One that has failed is down, whether the next
 * attempt is waited for or made: at three in the morning that is one thing.
 */
export function stateOf(site) {
  if (site.status === null) return "elsewhere";
  return site.status.state !== "up" && site.status.last_error !== null ? "down" : site.status.state;
}

/** A moment, with its date for machines. */
export function time(at, context) {
  return h("time", { datetime: iso(at), title: iso(at) }, moment(at, context.now));
}

/** How long ago, in words that grow older by themselves. */
export function since(at, context) {
  return h("time", { datetime: iso(at), title: iso(at) }, duration(context.now - at));
}

/** A rate in octets a second; of old numbers nothing is said. */
export function flowing(octets, context) {
  if (context.stale || !context.carries) return rate(null);
  return octets < 0.5 ? h("span", { class: "nil" }, "0") : rate(octets);
}

/** Packets a second, likewise. */
export function packets(number, context) {
  if (context.stale || !context.carries) return perSecond(null);
  return number < 0.05 ? h("span", { class: "nil" }, "0") : perSecond(number);
}

/**
 * A table that can be scrolled by itself where it is too wide. Columns: [heading, cell, class]; the first
 * cell of a row is its heading.
 */
export function table(caption, columns, rows, { key = null, hidden = false, empty = "None." } = {}) {
  if (rows.length === 0) return h("p", { class: "nothing" }, empty);
  // On a phone each row is a block of its own (style.css). The roles keep it a table for whoever hears it.
  const head = columns.map(([heading, , kind]) => h("th", { scope: "col", role: "columnheader", class: kind }, heading));
  const body = rows.map((row) =>
    h(
      "tr",
      { role: "row", "data-key": key === null ? null : key(row) },
      columns.map(([heading, cell, kind], at) =>
        at === 0
          ? h("th", { scope: "row", role: "rowheader", class: kind }, cell(row))
          : h("td", { role: "cell", class: kind, "data-heading": heading }, cell(row)),
      ),
    ),
  );
  return h(
    "div",
    { class: "scrolls", tabindex: "0", role: "group", "aria-label": caption },
    h(
      "table",
      { role: "table" },
      h("caption", { class: hidden ? "unseen" : null }, caption),
      h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
      h("tbody", { role: "rowgroup" }, body),
    ),
  );
}

/** Facts: pairs of a term and what it is. */
export function facts(pairs, kind = "facts") {
  return h(
    "dl",
    { class: kind },
    pairs.filter((pair) => pair !== null).map(([term, ...what]) => h("div", {}, h("dt", {}, term), h("dd", {}, what))),
  );
}

/** A part of a view, with its heading. */
export function part(heading, kind, ...content) {
  const id = `part-${heading.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("section", { class: `card ${kind}`, "aria-labelledby": id, "data-key": id }, h("h2", { id }, heading), content);
}

export function to(...names) {
  return `#/${names.map(encodeURIComponent).join("/")}`;
}

/** How what has a translation is carried. */
export function carried(translation) {
  return translation === "rewrite" ? "rewritten" : "encapsulated";
}

/** A link to a site's own view. */
export function siteLink(tenant, site, text = `${tenant}/${site}`) {
  return h("a", { href: to("sites", tenant, site) }, text);
}

/** A link to a tenant's own view. */
export function tenantLink(tenant) {
  return h("a", { href: to("tenants", tenant) }, tenant);
}
