// The view of pools: what provider addresses are leased from, and how much of it is left.

import { h } from "./dom.js";
import { count } from "./format.js";
import { shape, table } from "./words.js";

/** The pools of provider addresses, those with the fewest left first. */
export function view(state, context) {
  const { overview } = state;
  const heading = h("h1", { tabindex: "-1", "data-key": "h1" }, "Pools");
  const nodes = [...overview.hosts, ...overview.gateways];
  const used = new Map((overview.status.lookup?.pools ?? []).map((pool) => [pool.pool, pool]));
  const owners = new Map();
  for (const node of nodes) for (const pool of node.pools) owners.set(pool, [...(owners.get(pool) ?? []), node.name]);
  const rows = [...owners].map(([pool, names]) => ({ pool, names, use: used.get(pool) ?? null }));
  rows.sort((a, b) => left(a) - left(b));
  const number = (of) => ({ use }) => (use === null || context.stale ? "–" : count(of(use)));
  return [
    heading,
    h(
      "section",
      { class: "card", "data-key": "pools" },
      h("p", { class: "dim" }, "A rewritten VM has a provider address of its own, from its host's pool. What it reaches through a gateway has one from the gateway's. Who gives one back leaves it in quarantine for five minutes."),
      table(
        "Pools, those with the fewest free addresses first",
        [
          ["Pool", ({ pool }) => h("code", {}, pool)],
          ["Whose", ({ names }) => names.join(", "), "words"],
          ["Free", ({ use }) => (use === null || context.stale ? "–" : use.free === 0 ? [shape("bad"), " none"] : count(use.free)), "number"],
          ["Held", number((use) => use.held), "number"],
          ["In quarantine", number((use) => use.quarantined), "number"],
          ["All", number((use) => use.size), "number"],
        ],
        rows,
        { key: ({ pool }) => pool, hidden: true, empty: "Nobody that you may see has a pool: nothing is rewritten." },
      ),
      rows.length && used.size === 0 ? h("p", { class: "dim" }, "How full they are is known to the nodes that serve the lookup service, and told to who sees every tenant.") : null,
    ),
  ];
}

/** How much of a pool is left; last, where that is not known. */
function left({ use }) {
  return use === null ? 2 : use.free / Math.max(use.size, 1);
}
