// The views: each is made anew from what is known, and put into the page as far as it differs.

import { h } from "./dom.js";
import { count, duration, many, moment, perSecond, rate, size } from "./format.js";
import { picture, sum } from "./picture.js";
import { throughput, upAndDown } from "./plot.js";
import { badge, carried, facts, flowing, packets, part, shape, since, siteLink, stateOf, table, tenantLink, time, to } from "./words.js";

const MODES = { announce: "announced by the VM", orchestrate: "orchestrated", register: "registered" };
const LEVELS = { bad: "wrong", warning: "soon wrong", note: "to know" };

/** What is wrong, first; or that nothing is. */
export function health(overview, context) {
  const found = overview.status.health;
  const verdict = verdictOf(overview);
  return h(
    "section",
    { class: `card health is-${verdict.level}`, "aria-labelledby": "verdict", "data-key": "health" },
    h("h2", { id: "verdict" }, shape(verdict.level), context.stale ? `It was: ${verdict.words}` : verdict.words),
    found.length
      ? h(
          "ul",
          { class: "findings" },
          found.slice(0, 50).map((finding) =>
            h(
              "li",
              { class: `is-${finding.level}` },
              shape(finding.level),
              h("span", { class: "unseen" }, `${LEVELS[finding.level]}: `),
              h(
                "p",
                {},
                linked(finding),
                finding.since ? h("span", { class: "dim" }, " (for ", since(finding.since, context), ")") : null,
                finding.advice ? h("span", { class: "advice" }, coded(finding.advice)) : null,
              ),
            ),
          ),
          found.length > 50 ? h("li", {}, `and ${found.length - 50} more`) : null,
        )
      : null,
  );
}

/** A finding's words, with the site that they name as a link to it. */
function linked({ words, tenant, site }) {
  const name = `${tenant}/${site}`;
  const at = site ? words.indexOf(name) : -1;
  return at < 0 ? words : [words.slice(0, at), siteLink(tenant, site), words.slice(at + name.length)];
}

/** Words in which commands stand between backticks. */
function coded(words) {
  return words.split("`").map((each, at) => (at % 2 ? h("code", {}, each) : each));
}

/** How it is in a few words. */
export function verdictOf(overview) {
  const bad = overview.status.health.filter((finding) => finding.level === "bad").length;
  const warnings = overview.status.health.filter((finding) => finding.level === "warning").length;
  if (bad) return { level: "down", words: `${many(bad, "thing is", "things are")} wrong` };
  if (warnings) return { level: "warning", words: `${many(warnings, "thing needs", "things need")} a look` };
  return { level: "up", words: overview.sees_all ? "All is well" : "All is well with what you may see" };
}

export function network(state, context) {
  const { overview } = state;
  const sites = overview.tenants.flatMap((tenant) => tenant.sites);
  const own = sites.filter((site) => site.status !== null);
  const up = own.filter((site) => site.status.state === "up").length;
  const carried = sum(sites.map((site) => site.rates));
  const subnets = sum(overview.tenants.flatMap((tenant) => tenant.subnets.map((subnet) => subnet.rates)));
  const dropped = overview.drops.filter((drop) => !overview.usual.includes(drop.reason)).reduce((sofar, drop) => sofar + drop.rate, 0);
  return [
    h("h1", { class: "unseen", tabindex: "-1", "data-key": "h1" }, "The network"),
    health(overview, context),
    facts(
      [
        own.length || sites.length ? ["Sites up", h("b", {}, context.stale ? "–" : `${up}`), ` of ${own.length}`] : null,
        ["Tenants", h("b", {}, count(overview.tenants.length + overview.tenants_left_out))],
        ["Hosts", h("b", {}, count(overview.hosts.length))],
        ["Records", h("b", {}, count(overview.tenants.reduce((sofar, tenant) => sofar + tenant.subnets.reduce((all, subnet) => all + subnet.records, 0), 0)))],
        overview.carries ? ["From subnets", h("b", {}, flowing(subnets.sent_octets, context))] : null,
        overview.carries ? ["To sites", h("b", {}, flowing(carried.received_octets, context))] : null,
        overview.carries ? ["From sites", h("b", {}, flowing(carried.sent_octets, context))] : null,
        overview.carries ? ["Dropped", h("b", {}, packets(dropped, context))] : null,
      ],
      "figures",
    ),
    part("The network now", "wide", picture(overview, context, context.width)),
    h(
      "div",
      { class: "beside", "data-key": "beside" },
      part("Last moves", "", movesTable(state, context, 8)),
      part("Last events", "", eventList(state.events.slice(0, 8), context), h("p", { class: "more" }, h("a", { href: "#/events" }, "All events"))),
    ),
  ];
}

export function sites(state, context) {
  const rows = state.overview.tenants.flatMap((tenant) => tenant.sites.map((site) => ({ tenant, site })));
  const order = { down: 0, connecting: 1, waiting: 2, up: 3, elsewhere: 4 };
  rows.sort((a, b) => order[stateOf(a.site)] - order[stateOf(b.site)]);
  return [
    h("h1", { tabindex: "-1", "data-key": "h1" }, "Sites"),
    h("section", { class: "card", "data-key": "sites" }, table("Sites, those that are down first", siteColumns(context, true), rows, { key: ({ tenant, site }) => `${tenant.name}/${site.name}`, hidden: true, empty: "No tenant has a site yet: docs/sites.md shows how one is made." })),
  ];
}

function siteColumns(context, named) {
  return [
    ["Site", ({ tenant, site }) => siteLink(tenant.name, site.name, named ? `${tenant.name}/${site.name}` : site.name)],
    ["State", ({ site }) => badge(stateOf(site), context)],
    ["For", ({ site }) => (site.status ? since(site.status.since, context) : "–"), "number"],
    ["From there", ({ site }) => (site.status ? flowing(site.rates.sent_octets, context) : "–"), "number"],
    ["To there", ({ site }) => (site.status ? flowing(site.rates.received_octets, context) : "–"), "number"],
    ["Gateway", ({ site }) => site.gateway],
    ["Prefixes", ({ site }) => site.prefixes.join(" ")],
    ["Last error", ({ site }) => (site.status?.last_error ? [site.status.last_error.why, h("span", { class: "dim" }, " ", time(site.status.last_error.at, context))] : "none"), "words"],
  ];
}

export function site(state, context, tenantName, siteName) {
  const tenant = state.overview.tenants.find((each) => each.name === tenantName);
  const found = tenant?.sites.find((each) => each.name === siteName);
  if (!found) return missing(`${tenantName}/${siteName}`, "site");
  const status = found.status;
  const heading = h("h1", { tabindex: "-1", "data-key": "h1" }, h("span", { class: "of" }, tenantLink(tenantName), " / "), siteName, " ", badge(stateOf(found), context));
  if (status === null) {
    return [
      heading,
      part("What is known here", "", facts([["Gateway", found.gateway], ["Prefixes", found.prefixes.join(" ")]]), h("p", {}, `The gateway ${found.gateway} has this tunnel: its own page shows more.`)),
    ];
  }
  const trend = state.trend?.of === `${tenantName}/${siteName}` ? state.trend.value : null;
  // What only this view shows is not told with all sites, but with the site's own past.
  const whole = trend?.status ?? status;
  return [
    heading,
    part(
      "How it is",
      "",
      facts([
        [status.state === "up" ? "Up for" : "Not up for", since(status.since, context), h("span", { class: "dim" }, " since ", time(status.since, context))],
        status.last_error && status.state !== "up" ? ["Why", h("span", { class: "why" }, status.last_error.why)] : null,
        status.failures ? ["Attempts", `${count(status.failures)} failed since it was up last`] : null,
        status.state !== "up" ? ["Now", context.stale ? "–" : doing(status)] : null,
        ["Peer", status.path ?? status.peer],
        ["Identities", `we are ${status.local_id || "not shown"}, it is ${status.remote_id || "not shown"}`],
        ["Prefixes", found.prefixes.join(" ")],
        status.ike_suite ? ["IKE", `${status.ike_suite}, rekeyed ${times(status.ike_rekeys)}; its children ${times(status.child_rekeys)}`] : null,
        ["From there", flowing(found.rates.sent_octets, context), ", ", packets(found.rates.sent_packets, context), h("span", { class: "dim" }, ` ${size(status.received_octets)} so far`)],
        ["To there", flowing(found.rates.received_octets, context), ", ", packets(found.rates.received_packets, context), h("span", { class: "dim" }, ` ${size(status.sent_octets)} so far`)],
      ]),
    ),
    part("Throughput", "", plots(trend, state, context, ["to the site", "from the site"])),
    part("Up and down", "", trend ? upAndDown(trend, context, context.width) : waitingFor(state), historyTable(whole.history, context)),
    part(
      "Tunnels",
      "",
      table(
        "Child SAs: one pair of ESP SAs each",
        [
          ["Child", (child) => child.name],
          ["Suite", (child) => child.suite],
          ["Ours", (child) => child.local.join(" ")],
          ["Theirs", (child) => child.remote.join(" ")],
          ["SPI in, out", (child) => h("code", {}, `${child.inbound_spi} ${child.outbound_spi}`)],
          ["Carried", (child) => (child.in_udp ? "in UDP" : "ESP")],
          ["MTU", (child) => String(child.mtu), "number"],
        ],
        whole.children,
        { key: (child) => child.inbound_spi, empty: "None: no packet can be sent there." },
      ),
    ),
    part("What has happened", "", eventList(state.events.filter((event) => event.tenant === tenantName && event.site === siteName).slice(0, 30), context)),
  ];
}

function times(number) {
  return number === 0 ? "never" : number === 1 ? "once" : `${count(number)} times`;
}

/** What a site that is not up does about it. */
function doing(status) {
  if (status.state === "up") return null;
  if (status.state === "connecting") return "is connecting";
  if (status.retry_in !== null) return `tries again in ${duration(status.retry_in)}`;
  return status.start === "trap" ? "waits for the first packet" : "waits for the peer to dial";
}

function plots(trend, state, context, names) {
  if (!trend) return [waitingFor(state)];
  const chosen = state.range === "day" ? trend.coarse : trend.fine;
  const series = { ...chosen, most: state.range === "day" ? 288 : 180 };
  return [
    h(
      "p",
      { class: "choice", role: "group", "aria-label": "How far back" },
      [["quarter", "15 minutes"], ["day", "24 hours"]].map(([value, words]) => h("button", { type: "button", "data-range": value, "aria-pressed": String(state.range === value) }, words)),
    ),
    throughput(series, names, [chosen.received_octets, chosen.sent_octets], context, context.width, "throughput"),
  ];
}

function waitingFor(state) {
  return h("p", { class: "nothing" }, state.trendProblem ?? "Asking …");
}

function historyTable(history, context) {
  return table(
    "What this gateway remembers of it",
    [
      ["When", (turn) => time(turn.at, context)],
      ["What", (turn) => [shape(turn.what === "up" || turn.what === "authenticated" ? "up" : turn.what === "down" ? "down" : "warning"), ` ${turn.what}`]],
      ["Why", (turn) => turn.why, "words"],
    ],
    [...history].reverse(),
    { empty: "Nothing has happened to it since this gateway started." },
  );
}

function missing(name, what) {
  return [
    h("h1", { tabindex: "-1", "data-key": "h1" }, name),
    h("p", { class: "card", "data-key": "missing" }, `There is no such ${what}, or you may not see it. `, h("a", { href: "#/" }, "Back to the network")),
  ];
}

export function tenants(state, context) {
  const { overview } = state;
  return [
    h("h1", { tabindex: "-1", "data-key": "h1" }, "Tenants"),
    h(
      "section",
      { class: "card", "data-key": "tenants" },
      table(
        "Tenants",
        [
          ["Tenant", (tenant) => tenantLink(tenant.name)],
          ["Subnets", (tenant) => count(tenant.subnets.length), "number"],
          ["Records", (tenant) => count(tenant.subnets.reduce((sofar, subnet) => sofar + subnet.records, 0)), "number"],
          ["Sites", (tenant) => sitesInWords(tenant, context)],
          ["Sent", (tenant) => flowing(sum(tenant.subnets.map((each) => each.rates)).sent_octets, context), "number"],
          ["Received", (tenant) => flowing(sum(tenant.subnets.map((each) => each.rates)).received_octets, context), "number"],
          ["Dropped", (tenant) => packets(tenant.dropped, context), "number"],
          ["Gateways", (tenant) => tenant.gateways.join(", ")],
        ],
        overview.tenants,
        { key: (tenant) => tenant.name, hidden: true, empty: "No tenants that you may see." },
      ),
      overview.tenants_left_out ? h("p", { class: "dim" }, `and ${many(overview.tenants_left_out, "tenant")} more, whose sites are up and which carry less`) : null,
    ),
  ];
}

function sitesInWords(tenant, context) {
  const own = tenant.sites.filter((each) => each.status !== null);
  const up = own.filter((each) => each.status.state === "up").length;
  if (tenant.sites.length === 0) return h("span", { class: "dim" }, "none");
  if (own.length === 0) return `${tenant.sites.length} by another gateway`;
  return [badge(up === own.length ? "up" : "down", context), ` ${up} of ${own.length} up`];
}

export function tenant(state, context, name) {
  const found = state.overview.tenants.find((each) => each.name === name);
  if (!found) return missing(name, "tenant");
  const drops = state.overview.drops.filter((drop) => drop.tenant === name);
  const hosts = state.overview.hosts.filter((host) => host.tenants.includes(name));
  const records = (host) => found.subnets.reduce((sofar, subnet) => sofar + (host.records[subnet.vsid] ?? 0), 0);
  return [
    h("h1", { tabindex: "-1", "data-key": "h1" }, name),
    part(
      "Virtual subnets",
      "",
      table(
        "Virtual subnets",
        [
          ["Subnet", (subnet) => h("a", { href: to("tenants", name, subnet.name) }, subnet.name)],
          ["VSID", (subnet) => String(subnet.vsid), "number"],
          ["Prefixes", (subnet) => subnet.prefixes.join(" ")],
          ["Carried", (subnet) => carried(subnet.translation)],
          ["Records", (subnet) => count(subnet.records), "number"],
          ["Sent", (subnet) => flowing(subnet.rates.sent_octets, context), "number"],
          ["Received", (subnet) => flowing(subnet.rates.received_octets, context), "number"],
        ],
        found.subnets,
        { key: (subnet) => subnet.name, hidden: true },
      ),
    ),
    part("Sites of this tenant", "", table("Sites", siteColumns(context, false), found.sites.map((each) => ({ tenant: found, site: each })), { key: ({ site: each }) => each.name, hidden: true, empty: "No sites." })),
    part(
      "Hosts that may hold its VMs",
      "",
      table("Hosts", [["Host", (host) => host.name], ["Provider addresses", (host) => host.addresses.join(" ")], ["Pools", (host) => host.pools.join(" ") || "none"], ["Records of this tenant", (host) => count(records(host)), "number"]], hosts, { hidden: true, key: (host) => host.name }),
    ),
    part("What was dropped of it", "", dropTable(state.overview, drops, context, false)),
    part("Rules", "", facts([["Gateways, in order", found.gateways.join(", ")], ["Routes of its own", count(found.routes)], ["Access rules", found.access_rules ? count(found.access_rules) : "none: all of its own traffic passes"]])),
    part("What has happened", "", eventList(state.events.filter((event) => event.tenant === name).slice(0, 30), context)),
  ];
}

export function subnet(state, context, tenantName, subnetName) {
  const owner = state.overview.tenants.find((each) => each.name === tenantName);
  const found = owner?.subnets.find((each) => each.name === subnetName);
  if (!found) return missing(`${tenantName}/${subnetName}`, "virtual subnet");
  const trend = state.trend?.of === `${tenantName}//${subnetName}` ? state.trend.value : null;
  const hosts = state.overview.hosts.filter((host) => host.records[found.vsid]);
  return [
    h("h1", { tabindex: "-1", "data-key": "h1" }, h("span", { class: "of" }, tenantLink(tenantName), " / "), subnetName),
    part(
      "How it is",
      "",
      facts([
        ["VSID", String(found.vsid)],
        ["Prefixes", found.prefixes.join(" ")],
        ["Its VMs are", `${carried(found.translation)}, unless their records say otherwise`],
        ["Records", count(found.records)],
        ["Sent", flowing(found.rates.sent_octets, context), ", ", packets(found.rates.sent_packets, context)],
        ["Received", flowing(found.rates.received_octets, context), ", ", packets(found.rates.received_packets, context)],
      ]),
    ),
    part("Throughput", "", plots(trend, state, context, ["to the subnet", "from the subnet"])),
    part("Where its VMs are", "", table("Hosts", [["Host", (host) => host.name], ["Records", (host) => count(host.records[found.vsid]), "number"]], hosts, { hidden: true, empty: "No host holds a record of it." })),
  ];
}

export function drops(state, context) {
  const { overview } = state;
  if (!overview.carries) {
    return [h("h1", { tabindex: "-1", "data-key": "h1" }, "Drops"), h("p", { class: "card", "data-key": "none" }, "This node carries no packets, so it drops none.")];
  }
  const unusual = overview.drops.filter((drop) => !overview.usual.includes(drop.reason));
  const usual = overview.drops.filter((drop) => overview.usual.includes(drop.reason));
  return [
    h("h1", { tabindex: "-1", "data-key": "h1" }, "Drops"),
    part("By reason", "", h("p", { class: "dim" }, "Each dropped packet is counted once, under one reason, since this node started."), dropTable(overview, unusual, context, true)),
    part("What guests do all the time", "", h("p", { class: "dim" }, "Nobody misses these."), dropTable(overview, usual, context, true)),
    part("Every reason there is", "", h("details", {}, h("summary", {}, many(Object.keys(overview.reasons).length, "reason")), facts(Object.entries(overview.reasons).map(([reason, words]) => [h("code", {}, reason), words]), "facts reasons"))),
  ];
}

function dropTable(overview, found, context, named) {
  const rows = [...found].sort((a, b) => b.packets - a.packets);
  const columns = [
    ["Reason", (drop) => h("code", {}, drop.reason)],
    named ? ["Tenant", (drop) => (drop.tenant ? tenantLink(drop.tenant) : h("span", { class: "dim" }, "not known"))] : null,
    ["Now", (drop) => packets(drop.rate, context), "number"],
    ["So far", (drop) => count(drop.packets), "number"],
    ["What it means", (drop) => overview.reasons[drop.reason] ?? "", "words"],
  ];
  return table("Packets dropped, by reason", columns.filter((column) => column !== null), rows, { key: (drop) => `${drop.reason}/${drop.tenant}`, hidden: true, empty: "None has been dropped." });
}

export function events(state, context) {
  return [
    h("h1", { tabindex: "-1", "data-key": "h1" }, "Events"),
    h(
      "section",
      { class: "card", "data-key": "events" },
      h("p", { class: "choice", role: "group", "aria-label": "Which" }, [["all", "all"], ["warning", "warnings and errors"]].map(([value, words]) => h("button", { type: "button", "data-level": value, "aria-pressed": String(state.level === value) }, words))),
      eventList(state.events.filter((event) => state.level === "all" || ["warning", "error", "critical"].includes(event.level)).slice(0, 300), context),
      h("p", { class: "dim" }, state.following ? "Live: new ones appear by themselves." : `Asked for again every few seconds${state.eventsProblem ? `: ${state.eventsProblem}` : ""}.`),
    ),
  ];
}

export function eventList(found, context) {
  if (found.length === 0) return h("p", { class: "nothing" }, "Nothing yet.");
  return h(
    "ol",
    { class: "events" },
    found.map((event) =>
      h(
        "li",
        { class: `is-${levelOf(event)}`, "data-key": event.key },
        time(event.at, context),
        shape(levelOf(event)),
        h(
          "p",
          {},
          h("span", { class: "unseen" }, `${event.level}: `),
          event.site && event.tenant ? [siteLink(event.tenant, event.site), " "] : event.tenant ? [tenantLink(event.tenant), " "] : null,
          event.words,
        ),
      ),
    ),
  );
}

function levelOf(event) {
  if (event.event === "site-up" || event.event === "ready") return "up";
  if (event.level === "error" || event.level === "critical" || event.event === "site-down") return "bad";
  return event.level === "warning" ? "warning" : "note";
}

/** Moves of records, newest first, as they are told by the appliance. */
export function movesTable(state, context, most) {
  if (state.movesProblem) return h("p", { class: "nothing" }, state.movesProblem);
  return table(
    "Records that changed their host, newest first",
    [
      ["When", (move) => time(move.at, context)],
      ["VM", (move) => [h("code", {}, move.addresses[0] ?? move.mac), move.addresses.length > 1 ? h("span", { class: "dim" }, ` +${move.addresses.length - 1}`) : null, h("span", { class: "under" }, `${move.tenant}/${move.subnet}`)]],
      ["From, to", (move) => [`${move.was} → `, h("b", {}, move.host), h("span", { class: "under" }, MODES[move.mode] ?? "by another node")]],
      ["Known to all in", (move) => (move.seconds !== null ? `${(move.seconds * 1000).toFixed(0)} ms` : move.waiting.length ? h("span", { class: "why" }, `waits for ${move.waiting.join(", ")}`) : "–"), "number"],
    ],
    state.moves.slice(0, most),
    { key: (move) => move.key, hidden: true, empty: "No record has moved since this node started." },
  );
}

export { duration, moment, perSecond, rate };
