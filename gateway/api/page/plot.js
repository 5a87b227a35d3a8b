// Plots over time: what was carried each way, and when a site was up. Each says in words what it shows.

import { h, s } from "./dom.js";
import { brief, duration, moment, rate } from "./format.js";

const LEFT = 70; // room for the numbers at the axis
const BELOW = 22;
const HIGH = 168;

/** Throughput over time, as two lines: [name, octets a second] each. */
export function throughput(series, names, values, context, width, key) {
  const [first, second] = values;
  const points = first.length;
  const span = series.step * series.most;
  const W = Math.max(280, width);
  const highest = Math.max(125, ...first, ...second);
  const top = nice(highest * 8) / 8;
  const x = (at) => LEFT + (W - LEFT - 8) * (1 - ((points - 1 - at) * series.step) / span);
  const y = (value) => 10 + (HIGH - BELOW - 10) * (1 - value / top);
  const path = (numbers) => numbers.map((value, at) => `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const area = points > 1 ? `${path(first)}L${x(points - 1).toFixed(1)} ${y(0)}L${x(0).toFixed(1)} ${y(0)}Z` : "";
  const grid = [0, 0.5, 1].map((part) =>
    s(
      "g",
      { "data-key": `y${part}` },
      s("path", { d: `M${LEFT} ${y(top * part)}H${W - 8}`, class: part ? "grid" : "axis" }),
      s("text", { x: LEFT - 8, y: y(top * part) + 4, "text-anchor": "end", class: "tick" }, part ? rate(top * part).replace(/(\.\d*?)0+ /, "$1 ").replace(". ", " ") : "0"),
    ),
  );
  const ticks = [0, 1, 2, 3].map((at) => {
    const ago = (span * (3 - at)) / 3;
    const centre = LEFT + ((W - LEFT - 8) * at) / 3;
    return s("text", { x: centre, y: HIGH - 4, "text-anchor": at === 3 ? "end" : at === 0 ? "start" : "middle", class: "tick", "data-key": `x${at}` }, ago < 1 ? moment(series.end, context.now).slice(-8, -3) : `−${brief(ago)}`);
  });
  const said = names.map((name, at) => `${name}: ${summary(values[at])}`).join(". ");
  return h(
    "figure",
    { class: "plot", "data-key": key },
    h(
      "figcaption",
      {},
      names.map((name, at) =>
        h(
          "span",
          { class: `series-${at}` },
          s("svg", { viewBox: "0 0 28 8", class: "sample", "aria-hidden": "true", focusable: "false" }, s("path", { d: "M1 4H27", class: `series s${at}` })),
          h("b", {}, name),
          ` ${summary(values[at])}`,
        ),
      ),
    ),
    s(
      "svg",
      { viewBox: `0 0 ${W} ${HIGH}`, width: W, height: HIGH, role: "img", "aria-label": `Throughput of the last ${brief(span)}. ${said}.` },
      grid,
      ticks,
      s("path", { d: area, class: "area", "data-key": "area" }),
      s("path", { d: path(first), class: "series s0", "data-key": "s0" }),
      s("path", { d: path(second), class: "series s1", "data-key": "s1" }),
      points < 2 ? s("text", { x: (W + LEFT) / 2, y: HIGH / 2, "text-anchor": "middle", class: "tick", "data-key": "none" }, "not watched for long enough yet") : null,
    ),
  );
}

function summary(values) {
  if (values.length === 0) return "nothing yet";
  const mean = values.reduce((sofar, value) => sofar + value, 0) / values.length;
  return `now ${rate(values.at(-1))}, mean ${rate(mean)}, highest ${rate(Math.max(...values))}`;
}

/** The next of 1, 2, 5, 10, 20 ... above a value. */
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((each) => each >= value);
}

/** When a site was up, over the last day or since it was watched: a strip, and the same in words. */
export function upAndDown(trend, context, width) {
  const end = context.now;
  const begin = Math.max(end - 86400, Math.min(trend.watched_since, end - 600));
  const W = Math.max(280, width);
  const x = (at) => 1 + (W - 2) * Math.min(1, Math.max(0, (at - begin) / (end - begin)));
  const spells = spellsOf(trend, begin, end);
  const up = spells.filter((spell) => spell.state === "up").reduce((sofar, spell) => sofar + spell.end - spell.begin, 0);
  const known = spells.filter((spell) => spell.state !== "unknown").reduce((sofar, spell) => sofar + spell.end - spell.begin, 0);
  const downs = spells.filter((spell) => spell.state === "down");
  const share = known > 0 ? (100 * up) / known : 0;
  const percent = share === 100 || share === 0 ? share.toFixed(0) : Math.min(99.99, share).toFixed(2);
  const words = `Up ${percent} % of the ${duration(known)} watched${downs.length ? `; down ${downs.length === 1 ? "once" : `${downs.length} times`}, ${duration(known - up)} in all` : ""}.`;
  const H = 34;
  return h(
    "figure",
    { class: "plot", "data-key": "up-and-down" },
    h("figcaption", {}, words),
    s(
      "svg",
      { viewBox: `0 0 ${W} ${H + 18}`, width: W, height: H + 18, role: "img", "aria-label": words },
      s("defs", {}, s("pattern", { id: "hatch", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, s("rect", { width: 7, height: 7, class: "hatch-ground" }), s("path", { d: "M0 0V7", class: "hatch-line" }))),
      spells.map((spell, at) => {
        const from = x(spell.begin);
        // What is shorter than a point is drawn as one: it happened.
        const wide = Math.max(spell.state === "down" ? 3 : 1, x(spell.end) - from);
        return s("rect", { x: Math.min(from, W - wide - 1), y: spell.state === "down" ? 2 : 9, width: wide, height: spell.state === "down" ? H - 4 : H - 18, rx: 2, class: `spell is-${spell.state}`, "data-key": `spell-${at}` }, s("title", {}, `${spell.state}, ${moment(spell.begin, end)} to ${moment(spell.end, end)}`));
      }),
      s("text", { x: 1, y: H + 14, class: "tick" }, `−${duration(end - begin)}`),
      s("text", { x: W - 1, y: H + 14, class: "tick", "text-anchor": "end" }, moment(end, end).slice(-8, -3)),
    ),
  );
}

function spellsOf(trend, begin, end) {
  const spells = [];
  let at = begin;
  let state = "unknown";
  const close = (until) => {
    if (until > at) spells.push({ state, begin: at, end: until });
    at = Math.max(at, until);
  };
  for (const turn of trend.turns) {
    close(Math.min(end, Math.max(begin, turn.at)));
    // A site that was away for a moment between two looks has two turns at one time: the moment is shown.
    if (!turn.is_up && turn.at >= begin) spells.push({ state: "down", begin: turn.at, end: turn.at });
    state = turn.is_up ? "up" : "down";
  }
  close(end);
  // A moment that a longer spell begins with is part of it.
  return spells.filter((spell, number) => {
    const next = spells[number + 1];
    return !(spell.begin === spell.end && next !== undefined && next.state === "down" && next.begin === spell.begin);
  });
}
