// The network as a picture. Hosts stand on the left. Each tenant is a lane: its virtual subnets come in from the
// left and its sites go out to the right, and a gateway is a bar across all the lanes that it serves. A line is as
// heavy as its traffic and moves the way that goes; a tunnel that is down is broken, crossed, and says so.

import { h, s } from "./dom.js";
import { brief, duration, many, rate } from "./format.js";
import { carried, flowing, packets, shape, siteLink, stateOf, table, tenantLink, to } from "./words.js";

const MOST_ROWS = 60; // of subnets or sites, before each tenant becomes one row
const MOST_LANES = 60;
const MOST_HOSTS = 40;
const NARROW = 720;
const LEAST = 12.5; // octets a second, from which on something is said to move

const total = (rates) => rates.sent_octets + rates.received_octets;

/** Sum up rates. */
export function sum(all) {
  const found = { sent_octets: 0, received_octets: 0, sent_packets: 0, received_packets: 0 };
  for (const rates of all) for (const name of Object.keys(found)) found[name] += rates[name];
  return found;
}

/** The whole part: the picture, its key, and the same in tables. */
export function picture(overview, context, width) {
  const plan = planned(overview, width);
  return [
    h("div", { class: "canvas", "data-key": "canvas" }, drawing(plan, overview, context)),
    h(
      "p",
      { class: "legend", "data-key": "legend" },
      h("span", {}, shape("up"), " up"),
      h("span", {}, shape("down"), " down"),
      h("span", {}, shape("connecting"), " connecting"),
      h("span", {}, shape("waiting"), " waiting"),
      h("span", { class: "weights" }, "the heavier a line, the more it carries; it moves the way that the packets go"),
      plan.collapsed ? h("span", {}, "each tenant is one row, since there are many") : null,
    ),
    h("details", { "data-key": "tables" }, h("summary", {}, "The same as tables"), tables(overview, context)),
  ];
}

function planned(overview, width) {
  const rows = overview.tenants.reduce((sofar, each) => sofar + Math.max(each.subnets.length, each.sites.length, 1), 0);
  const collapsed = rows > MOST_ROWS || overview.tenants.length > MOST_LANES;
  let tenants = overview.tenants;
  let left = overview.tenants_left_out;
  if (tenants.length > MOST_LANES) {
    const down = (tenant) => tenant.sites.filter((site) => !["up", "elsewhere"].includes(stateOf(site))).length;
    const carried = (tenant) => total(sum([...tenant.subnets, ...tenant.sites].map((each) => each.rates)));
    // Only what is wrong changes the choice at once; traffic does so by its order of magnitude, lest lanes dance.
    const weight = (tenant) => Math.floor(Math.log10(1 + carried(tenant)));
    tenants = [...tenants]
      .sort((a, b) => down(b) - down(a) || weight(b) - weight(a) || a.name.localeCompare(b.name))
      .slice(0, MOST_LANES)
      .sort((a, b) => a.name.localeCompare(b.name));
    left += overview.tenants.length - MOST_LANES;
  }
  return { collapsed, left, narrow: width < NARROW, width, tenants, hosts: hostsOf(overview), lanes: tenants.map((t) => laneOf(t, collapsed)) };
}

function hostsOf(overview) {
  const hosts = overview.hosts.map((host) => ({ name: host.name, records: host.records, held: host.held }));
  if (hosts.length <= MOST_HOSTS) return hosts;
  const records = {};
  let held = 0;
  for (const host of hosts) {
    held += host.held ?? 0;
    for (const [vsid, number] of Object.entries(host.records)) records[vsid] = (records[vsid] ?? 0) + number;
  }
  return [{ name: many(hosts.length, "host"), records, held }];
}

function laneOf(tenant, collapsed) {
  const subnets = tenant.subnets.map((subnet) => ({
    name: subnet.name,
    caption: `${subnet.vsid} · ${subnet.prefixes.join(" ")}`,
    vsids: [subnet.vsid],
    gateway: tenant.gateways[0],
    rates: subnet.rates,
  }));
  const sites = tenant.sites.map((site) => ({
    name: site.name,
    caption: site.prefixes.join(" "),
    gateway: site.gateway,
    rates: site.rates,
    state: stateOf(site),
    since: site.status?.since,
    href: to("sites", tenant.name, site.name),
  }));
  if (!collapsed) return { tenant, subnets, sites };
  const broken = sites.filter((site) => !["up", "elsewhere"].includes(site.state));
  const ups = sites.filter((site) => site.state === "up").length;
  return {
    tenant,
    subnets: subnets.length > 1 ? [{ name: many(subnets.length, "subnet"), caption: "", vsids: subnets.flatMap((each) => each.vsids), gateway: tenant.gateways[0], rates: sum(subnets.map((each) => each.rates)) }] : subnets,
    sites:
      sites.length > 1
        ? [{ name: many(sites.length, "site"), caption: broken.length ? `${broken.length} not up` : "", gateway: sites[0].gateway, rates: sum(sites.map((each) => each.rates)), state: broken.length ? broken[0].state : ups ? "up" : "elsewhere", word: broken.length ? `${broken.length} of ${sites.length} not up` : "", href: to("tenants", tenant.name) }]
        : sites,
  };
}

function drawing(plan, overview, context) {
  const { narrow, collapsed } = plan;
  const W = Math.max(300, plan.width);
  const row = collapsed ? 30 : narrow ? 44 : 46;
  const head = narrow || collapsed ? 22 : 26;
  const bars = overview.gateways.length ? overview.gateways : [{ name: "no gateway", is_here: false, addresses: [] }];
  const longest = Math.max(...bars.map((each) => each.name.length)) * 8 + 14;
  const spread = narrow ? Math.min(16, 64 / bars.length) : Math.min(Math.max(34, longest), 260 / bars.length);
  const hostsWide = !narrow && plan.hosts.length > 0;
  const left = hostsWide ? Math.round(W * 0.27) : 10;
  const right = W - 10;
  const mid = Math.round(left + (right - left) * 0.52);
  const barX = new Map(bars.map((bar, at) => [bar.name, mid + (at - (bars.length - 1) / 2) * spread]));
  const bar = (name) => barX.get(name) ?? barX.values().next().value;
  const first = Math.min(...barX.values());
  const last = Math.max(...barX.values());
  const back = [];
  const lines = [];
  const front = [];
  const labels = [];
  const ends = new Map(); // by VSID, where hosts' lines go
  const docks = []; // where lines meet bars
  let y = narrow ? 34 + (plan.hosts.length ? 22 * Math.ceil(plan.hosts.length / perStrip(W)) + 30 : 0) : 40;
  const top = y;
  for (const lane of plan.lanes) {
    const inner = collapsed ? row : head + row * Math.max(lane.subnets.length, lane.sites.length, 1);
    const height = inner + (collapsed ? 0 : 6);
    back.push(s("rect", { x: left - 8, y, width: right - left + 16, height, rx: 9, class: "lane", "data-key": `lane-${lane.tenant.name}` }));
    if (!collapsed) labels.push(s("text", { x: left + 2, y: y + 18, class: "tenant", "data-key": `name-${lane.tenant.name}` }, cut(lane.tenant.name, mid - left - 60, 13)));
    const base = (at) => (collapsed ? y + 20 : y + head + row * at + (narrow ? 24 : 26));
    lane.subnets.forEach((subnet, at) => {
      const key = `subnet-${lane.tenant.name}-${at}`;
      const x = bar(subnet.gateway);
      const name = collapsed ? `${lane.tenant.name} · ${subnet.name}` : subnet.name;
      lines.push(line(key, `M${left} ${base(at)}H${x}`, subnet.rates, context, "subnet"));
      front.push(s("circle", { cx: left, cy: base(at), r: 4, class: "end", "data-key": key }));
      docks.push([x, base(at)]);
      for (const vsid of subnet.vsids) ends.set(vsid, base(at));
      labels.push(label(key, left + 10, base(at) - 7, name, first - left - (narrow ? 100 : 210), narrow ? 12.5 : 13.5, "what", "start"));
      labels.push(rates(key, first - 12, base(at) - 7, subnet.rates, context, { out: "▸", back: "◂" }, "end", narrow));
      if (subnet.caption && !collapsed) labels.push(label(`${key}-caption`, left + 10, base(at) + 15, subnet.caption, first - left - 24, 11, "caption", "start"));
    });
    lane.sites.forEach((site, at) => {
      const key = `site-${lane.tenant.name}-${at}`;
      const x = bar(site.gateway);
      const end = right - 6;
      // What was carried until a moment ago is not carried by a tunnel that is gone.
      const carried = site.state === "up" ? site.rates : sum([]);
      lines.push(line(key, `M${x} ${base(at)}H${end}`, carried, context, `site is-${site.state}`));
      docks.push([x, base(at)]);
      front.push(mark(site.state, end, base(at), key));
      labels.push(s("g", { class: "leads", "data-go": site.href, "data-key": `${key}-link` }, label(key, end - 12, base(at) - 7, site.name, end - last - (narrow ? 24 : 210), narrow ? 12.5 : 13.5, "what", "end")));
      // On a phone there is no room beside the name: what a site carries, or that it does not, is below the line.
      const beside = narrow && !collapsed ? [end - 12, base(at) + 15, "end"] : [last + 12, base(at) - 7, "start"];
      if (site.state === "up") {
        labels.push(rates(key, beside[0], beside[1], site.rates, context, { out: "◂", back: "▸" }, beside[2], narrow));
      } else if (site.state === "elsewhere") {
        labels.push(label(`${key}-state`, beside[0], beside[1], `by ${site.gateway}`, (end - last) * 0.6, 11, "caption", beside[2]));
      } else {
        const centre = (last + end) / 2;
        lines.push(s("path", { d: `M${centre - 5} ${base(at) - 5}l10 10m0 -10l-10 10`, class: `cross is-${site.state}`, "data-key": `${key}-cross` }));
        const ago = site.since === undefined ? "" : ` ${narrow ? brief(context.now - site.since) : duration(context.now - site.since)}`;
        const word = context.stale ? `was ${site.state}` : site.word || `${site.state}${ago}`;
        labels.push(s("text", { x: beside[0], y: beside[1], class: `state is-${site.state}`, "text-anchor": beside[2], "data-key": `${key}-state` }, word));
      }
      if (site.caption && !collapsed && !narrow) labels.push(label(`${key}-caption`, end - 12, base(at) + 15, site.caption, end - last - 24, 11, "caption", "end"));
    });
    if (lane.subnets.length === 0 && lane.sites.length === 0) {
      labels.push(label(`none-${lane.tenant.name}`, left + 10, base(0), collapsed ? `${lane.tenant.name}: nothing in it` : "nothing in it yet", mid - left, 12, "caption", "start"));
    }
    y += height + (collapsed ? 4 : 10);
  }
  if (plan.left > 0) {
    labels.push(s("text", { x: left + 10, y: y + 16, class: "caption", "data-key": "left" }, `and ${many(plan.left, "tenant")} more, with less to tell`));
    y += 30;
  }
  if (plan.lanes.length === 0) {
    labels.push(s("text", { x: left + 10, y: y + 20, class: "caption", "data-key": "empty" }, "no tenants yet"));
    y += 40;
  }
  const bottom = y - 6;
  const across = [];
  bars.forEach((each, at) => {
    const x = bar(each.name);
    across.push(s("rect", { x: x - 5, y: top - 6, width: 10, height: bottom - top + 8, rx: 5, class: each.is_here ? "bar here" : "bar", "data-key": `bar-${each.name}` }));
    const name = { class: each.is_here ? "gateway here" : "gateway", y: top - 14, "data-key": `bar-name-${each.name}` };
    if (!narrow || bars.length === 1) {
      const room = bars.length === 1 ? 2 * (mid - 10) : spread;
      across.push(s("text", { ...name, x, "text-anchor": "middle" }, cut(each.name, room, 13), s("title", {}, each.name)));
    } else if (at === 0 || at === bars.length - 1) {
      // Bars stand close together on a phone: the outer ones are named, to either side.
      const side = at === 0 ? { x: x + 5, "text-anchor": "end" } : { x: x - 5, "text-anchor": "start" };
      across.push(s("text", { ...name, ...side }, cut(each.name, mid - 30, 12)));
    }
  });
  docks.forEach(([x, at], number) => across.push(s("circle", { cx: x, cy: at, r: 3.2, class: "dock", "data-key": `dock-${number}` })));
  if (hostsWide) drawHosts(plan, { left, top, bottom, ends, lines, front, labels });
  else if (plan.hosts.length) drawStrip(plan, W, bar(bars.find((each) => each.is_here)?.name ?? bars[0].name), top, { lines, front, labels });
  const H = Math.round(Math.max(bottom + 10, hostsWide ? top + plan.hosts.length * 34 + 10 : 0));
  return s(
    "svg",
    { viewBox: `0 0 ${W} ${H}`, width: W, height: H, role: "img", "aria-label": inWords(overview, context), class: context.stale || !context.carries ? "network still" : "network", "data-key": `svg-${narrow}` },
    s("g", { "data-key": "back" }, back),
    s("g", { "data-key": "lines" }, lines),
    s("g", { "data-key": "across" }, across),
    s("g", { "data-key": "front" }, front),
    s("g", { "data-key": "labels" }, labels),
  );
}

function drawHosts(plan, { left, top, bottom, ends, lines, front, labels }) {
  const x = 14;
  const end = left - 86;
  const step = Math.min(64, Math.max(34, (bottom - top) / plan.hosts.length));
  const first = top + Math.max(0, (bottom - top - step * plan.hosts.length) / 2) + step / 2;
  plan.hosts.forEach((host, at) => {
    const y = first + step * at;
    for (const vsid of Object.keys(host.records)) {
      const to_ = ends.get(Number(vsid));
      if (to_ === undefined) continue;
      const bend = (left + end) / 2;
      lines.push(s("path", { d: `M${end} ${y}C${bend} ${y} ${bend} ${to_} ${left} ${to_}`, class: "holds", "data-key": `holds-${host.name}-${vsid}` }));
    }
    front.push(s("rect", { x, y: y - 15, width: end - x, height: 30, rx: 6, class: host.held ? "host" : "host empty", "data-key": `host-${host.name}` }));
    labels.push(label(`host-${host.name}`, x + 10, y + 4.5, host.name, end - x - 52, 13, "what", "start"));
    labels.push(s("text", { x: end - 9, y: y + 4, class: "caption", "text-anchor": "end", "data-key": `held-${host.name}` }, host.held ? String(host.held) : "–"));
  });
}

const perStrip = (W) => Math.max(1, Math.floor((W - 12) / 112));

function drawStrip(plan, W, x, top, { lines, front, labels }) {
  const each = perStrip(W);
  const wide = (W - 8) / Math.min(each, plan.hosts.length);
  plan.hosts.forEach((host, at) => {
    const left = 4 + (at % each) * wide;
    const y = 4 + Math.floor(at / each) * 28;
    front.push(s("rect", { x: left, y, width: wide - 6, height: 24, rx: 5, class: host.held ? "host" : "host empty", "data-key": `host-${host.name}` }));
    labels.push(label(`host-${host.name}`, left + 8, y + 16.5, host.name, wide - 44, 12, "what", "start"));
    labels.push(s("text", { x: left + wide - 13, y: y + 16, class: "caption", "text-anchor": "end", "data-key": `held-${host.name}` }, host.held ? String(host.held) : "–"));
  });
  const below = 4 + 28 * Math.ceil(plan.hosts.length / each);
  lines.push(s("path", { d: `M8 ${below + 2}H${W - 8}M${x} ${below + 2}V${top - 26}`, class: "holds", "data-key": "underlay" }));
}

function mark(state, x, y, key) {
  const at = `translate(${x - 8} ${y - 8})`;
  const drawn = shape(state);
  return s("g", { transform: at, class: `mark is-${state}`, "data-key": key }, s("circle", { cx: 8, cy: 8, r: 9.5, class: "plate" }), [...drawn.childNodes]);
}

function line(key, d, carried, context, kind) {
  const bits = context.stale ? 0 : total(carried) * 8;
  const weight = 1.5 + Math.min(5.5, Math.max(0, Math.log10(1 + bits / 1000) * 1.05));
  const parts = [s("path", { d, class: `line ${kind}`, "stroke-width": weight.toFixed(1), "data-key": "base" })];
  const both = carried.sent_octets >= LEAST && carried.received_octets >= LEAST;
  const moving = (octets, way) => {
    if (context.stale || octets < LEAST) return;
    const pace = octets < 12_500 ? "slow" : octets < 1_250_000 ? "steady" : "fast";
    const aside = both ? (way === "there" ? -weight : weight) / 4 : 0;
    parts.push(s("path", { d, class: `moves ${way} ${pace}`, "stroke-width": Math.max(1, both ? weight / 4 : weight / 3).toFixed(1), transform: `translate(0 ${aside.toFixed(1)})`, "data-key": way }));
  };
  // A line is drawn from left to right: from a subnet its sender is on the left, from a site on the right.
  const isSite = kind.startsWith("site");
  moving(isSite ? carried.received_octets : carried.sent_octets, "there");
  moving(isSite ? carried.sent_octets : carried.received_octets, "back");
  return s("g", { "data-key": key }, parts);
}

function rates(key, x, y, carried, context, arrows, anchor, narrow) {
  const words = [];
  if (!context.stale && context.carries) {
    if (carried.sent_octets >= LEAST) words.push([carried.sent_octets, `${arrows.out} ${rate(carried.sent_octets)}`]);
    if (carried.received_octets >= LEAST) words.push([carried.received_octets, `${arrows.back} ${rate(carried.received_octets)}`]);
  }
  // Where there is room for one, it is the greater.
  if (narrow) words.sort((a, b) => b[0] - a[0]).splice(1);
  return s("text", { x, y, class: "rates", "text-anchor": anchor, "data-key": `${key}-rates` }, words.map(([, word]) => word).join("\u2002"));
}

function label(key, x, y, text, room, height, kind, anchor) {
  return s("text", { x, y, class: kind, "font-size": height, "text-anchor": anchor, "data-key": key }, cut(text, room, height), s("title", {}, text));
}

/** As much of a text as has room: letters are taken to be 0.6 of their height wide. */
function cut(text, room, height) {
  const most = Math.max(3, Math.floor(room / (height * 0.6)));
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/** The picture in one sentence. */
export function inWords(overview, context) {
  const sites = overview.tenants.flatMap((tenant) => tenant.sites);
  const states = {};
  for (const site of sites) states[stateOf(site)] = (states[stateOf(site)] ?? 0) + 1;
  const how = Object.entries(states).map(([state, number]) => `${number} ${state === "elsewhere" ? "by another gateway" : state}`);
  const subnets = overview.tenants.reduce((sofar, tenant) => sofar + tenant.subnets.length, 0);
  const when = context.stale ? "The network as it was: " : "The network: ";
  return `${when}${many(overview.hosts.length, "host")}, ${many(subnets, "virtual subnet")} of ${many(overview.tenants.length, "tenant")}, ${many(overview.gateways.length, "gateway")}, ${many(sites.length, "site")}${how.length ? `: ${how.join(", ")}` : ""}. The tables below say the same.`;
}

function placesOf(host, names) {
  const places = Object.entries(host.records).map(([vsid, number]) => `${names.get(Number(vsid)) ?? vsid}: ${number}`);
  return places.join(", ") || (host.held === null ? "not known here" : host.held ? String(host.held) : "none");
}

function tables(overview, context) {
  const names = new Map(overview.tenants.flatMap((tenant) => tenant.subnets.map((subnet) => [subnet.vsid, `${tenant.name}/${subnet.name}`])));
  const subnets = overview.tenants.flatMap((tenant) => tenant.subnets.map((subnet) => ({ tenant, subnet })));
  const sites = overview.tenants.flatMap((tenant) => tenant.sites.map((site) => ({ tenant, site })));
  return [
    table("Hosts", [
      ["Host", (host) => host.name],
      ["Provider addresses", (host) => host.addresses.join(" ")],
      ["Records", (host) => placesOf(host, names)],
    ], overview.hosts, { empty: "No hosts that you may see." }),
    table("Virtual subnets", [
      ["Subnet", ({ subnet }) => subnet.name],
      ["Tenant", ({ tenant }) => tenantLink(tenant.name)],
      ["VSID", ({ subnet }) => String(subnet.vsid), "number"],
      ["Prefixes", ({ subnet }) => subnet.prefixes.join(" ")],
      ["Carried", ({ subnet }) => carried(subnet.translation)],
      ["Sent", ({ subnet }) => flowing(subnet.rates.sent_octets, context), "number"],
      ["Received", ({ subnet }) => flowing(subnet.rates.received_octets, context), "number"],
    ], subnets, { empty: "No virtual subnets." }),
    table("Gateways", [
      ["Gateway", (gateway) => gateway.name],
      ["Provider addresses", (gateway) => gateway.addresses.join(" ")],
      ["Where", (gateway) => (gateway.is_here ? "here" : "elsewhere")],
    ], overview.gateways, { empty: "No gateways." }),
    table("Sites", [
      ["Site", ({ tenant, site }) => siteLink(tenant.name, site.name)],
      ["State", ({ site }) => (context.stale ? `was ${stateOf(site)}` : stateOf(site))],
      ["Gateway", ({ site }) => site.gateway],
      ["From there", ({ site }) => flowing(site.rates.sent_octets, context), "number"],
      ["To there", ({ site }) => flowing(site.rates.received_octets, context), "number"],
      ["Packets from and to", ({ site }) => [packets(site.rates.sent_packets, context), " ", packets(site.rates.received_packets, context)], "number"],
    ], sites, { empty: "No sites." }),
  ];
}
