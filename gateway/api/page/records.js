// Records with search. An address is asked for directly; anything else is looked for page by page, so that a million
// records are never brought here at once.

import { ask } from "./api.js";
import { h, morph } from "./dom.js";
import { count, many } from "./format.js";
import { carried, table, tenantLink } from "./words.js";

const PAGE = 1000;
const MOST_PAGES = 20; // looked through before whoever searches is asked whether to go on
const MOST_SHOWN = 200;
const ADDRESS = /^(\d{1,3}(\.\d{1,3}){3}|[0-9a-f]*:[0-9a-f:.]*:[0-9a-f:.]*)$/i;

/** An element that is in the page already stays there, with its focus: what stands for it here is the like of it. */
function inPlace(element) {
  return element.isConnected ? h(element.localName, { "data-own": true, "data-key": element.dataset.key }) : element;
}

/** The view with its own state: `owners` says whose a VSID is. */
export class Records {
  constructor() {
    this.form = h(
      "form",
      { class: "search", role: "search", "data-own": true, "data-key": "search" },
      h("label", {}, "Tenant", h("select", { name: "tenant" })),
      h("label", { class: "grows" }, "Address, MAC or host", h("input", { name: "text", type: "search", autocomplete: "off", spellcheck: "false", placeholder: "10.0.1.5, 02:00:…, hv1" })),
      h("button", { type: "submit" }, "Search"),
    );
    this.result = h("div", { class: "result", "data-own": true, "data-key": "result", "aria-live": "polite" });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.begin();
    });
    this.result.addEventListener("click", (event) => {
      if (event.target.closest("[data-more]")) this.goOn();
    });
    this.run = 0;
    this.begun = false;
    this.overview = null;
  }

  /** Show the view for what is known of the network now. */
  view(overview) {
    this.overview = overview;
    const heading = h("h1", { tabindex: "-1", "data-key": "h1" }, "Records");
    if (!overview.serves_records || overview.records_at) {
      const why = overview.serves_records
        ? `This page is at an address of its own, and the lookup service at another: ask ${overview.records_at}.`
        : overview.records_at
          ? `This node follows the lookup service and does not serve it: ask ${overview.records_at}.`
          : "This node serves no lookup service: its records are the static ones of its own file.";
      return [heading, h("p", { class: "card", "data-key": "why" }, why, h("span", { class: "advice" }, "isthmus records NODE lists them in a terminal."))];
    }
    const options = [h("option", { value: "" }, "all that you may see"), ...overview.tenants.map((tenant) => h("option", { value: tenant.name }, tenant.name))];
    const select = this.form.elements.tenant;
    const chosen = select.value;
    morph(select, h("select", {}, options));
    select.value = chosen;
    if (!this.begun) this.begin();
    return [heading, h("section", { class: "card", "data-key": "records" }, inPlace(this.form), inPlace(this.result))];
  }

  async begin() {
    this.begun = true;
    this.tenant = this.form.elements.tenant.value;
    this.text = this.form.elements.text.value.trim().toLowerCase();
    this.found = [];
    this.looked = 0;
    this.next = undefined;
    if (ADDRESS.test(this.text)) await this.oneAddress();
    else await this.goOn();
  }

  async oneAddress() {
    const run = ++this.run;
    const tenants = this.overview.tenants.filter((tenant) => !this.tenant || tenant.name === this.tenant);
    const wanted = tenants.flatMap((tenant) => tenant.subnets.map((subnet) => ({ vsid: subnet.vsid, ca: this.text })));
    try {
      for (let at = 0; at < wanted.length; at += PAGE) {
        const { records } = await ask("/v1/resolve", wanted.slice(at, at + PAGE));
        if (run !== this.run) return;
        this.found.push(...records.filter((record) => record !== null));
      }
      this.show(`${many(this.found.length, "record")} of ${this.text}`, false);
    } catch (problem) {
      if (run === this.run) this.say(problem.message);
    }
  }

  async goOn() {
    const run = ++this.run;
    try {
      for (let pages = 0; pages < MOST_PAGES && this.found.length < MOST_SHOWN; pages += 1) {
        const query = new URLSearchParams({ limit: String(PAGE) });
        if (this.tenant) query.set("tenant", this.tenant);
        if (this.next) query.set("continue", this.next);
        const page = await ask(`/v1/records?${query}`);
        if (run !== this.run) return;
        this.looked += page.records.length;
        this.found.push(...page.records.filter((record) => this.matches(record)));
        this.next = page.continue ?? undefined;
        if (this.next === undefined) break;
        if (this.text) this.show(`Looking: ${many(this.looked, "record")} so far`, false);
      }
      const end = this.next === undefined;
      const words = this.text ? `${many(this.found.length, "record")} with “${this.text}” among ${count(this.looked)}` : many(this.found.length, "record");
      this.show(end ? words : `${words}, and there are more`, !end);
    } catch (problem) {
      if (run === this.run) this.say(problem.message);
    }
  }

  matches(record) {
    return !this.text || [record.ca, record.mac, record.host, record.pa].some((each) => each.toLowerCase().includes(this.text));
  }

  say(words) {
    morph(this.result, h("div", {}, h("p", { class: "nothing" }, words)));
  }

  show(words, more) {
    const owners = new Map(this.overview.tenants.flatMap((tenant) => tenant.subnets.map((subnet) => [subnet.vsid, { tenant, subnet }])));
    const shown = this.found.slice(0, MOST_SHOWN);
    morph(
      this.result,
      h(
        "div",
        {},
        h("p", { class: "dim" }, this.found.length > MOST_SHOWN ? `${words}; the first ${MOST_SHOWN} are shown` : words),
        table(
          "Lookup records",
          [
            ["Customer address", (record) => h("code", {}, record.ca)],
            ["Tenant", (record) => (owners.has(record.vsid) ? tenantLink(owners.get(record.vsid).tenant.name) : "–")],
            ["Subnet", (record) => `${owners.get(record.vsid)?.subnet.name ?? ""} ${record.vsid}`],
            ["MAC", (record) => h("code", {}, record.mac)],
            ["Host", (record) => record.host],
            ["Provider address", (record) => h("code", {}, record.pa)],
            ["Carried", (record) => carried(record.translation)],
            ["Epoch", (record) => (record.epoch ? String(record.epoch) : "static"), "number"],
          ],
          shown,
          { key: (record) => `${record.vsid}/${record.ca}`, hidden: true, empty: "None found." },
        ),
        more ? h("p", {}, h("button", { type: "button", "data-more": true }, "Look further")) : null,
      ),
    );
  }
}
