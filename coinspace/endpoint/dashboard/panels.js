// Tables: venues, gaps, and the platform's processes with their rates.

import { age, clock, outside, percent, price, rate, venueColour } from "./format.js";
import { reasonText, stateText, t } from "./i18n.js";
import { element } from "./ladder.js";

const GOOD = new Set(["ok", "synced", "ready", "filled"]);
const BAD = new Set(["disconnected", "stale", "down", "lost", "dead", "quarantined", "halted"]);
const SPARK = 40;

function state(name) {
  const node = element("span", `state ${GOOD.has(name) ? "ok" : BAD.has(name) ? "bad" : "warn"}`);
  node.append(element("i", "dot"), element("span", "", stateText(name)));
  return node;
}

function cell(content, name = "") {
  const node = element("td", name);
  node.append(content instanceof Node ? content : String(content));
  return node;
}

function headings(table, keys) {
  const tr = document.createElement("tr");
  for (const [key, side] of keys) tr.append(element("th", side, t(key)));
  table.tHead.replaceChildren(tr);
}

/** The venues of one asset and of the exchange rate. */
export class VenueTable {
  constructor(table) { this.table = table; this.before = new Map(); this.texts(); }

  texts() {
    headings(this.table, [["venue"], ["state", "left"], ["age"], ["share", "left"], ["mid"], ["spreadOne"], ["updates"], ["reason", "left"]]);
  }

  show(venues, asset, ts) {
    const shown = venues.filter((one) => one.asset === asset || one.market === "USDT/KRW");
    const rows = shown.map((one) => this.#row(one, ts));
    this.table.tBodies[0].replaceChildren(...rows);
  }

  #row(one, ts) {
    const tr = document.createElement("tr");
    tr.dataset.venue = one.venue;
    tr.dataset.state = one.state;
    tr.style.setProperty("--c", venueColour(one.exchange));
    const name = element("td", "name", one.exchange);
    name.prepend(element("i"));
    name.append(element("small", "", one.market));
    const share = element("td", "left");
    if (one.share !== null) {
      const meter = element("span", "meter");
      const bar = document.createElement("i");
      bar.style.width = percent(one.share);
      meter.append(bar);
      share.append(meter, percent(one.share, 1));
    } else share.append("–");
    share.dataset.share = one.share ?? "";
    const reason = one.used === false || !GOOD.has(one.state) ? reasonText(one.reason) || (one.used === false ? t("unused") : "") : "";
    tr.append(name, cell(state(one.state), "left"), cell(age(one.age_ms)), share, cell(price(one.mid, one.market.endsWith("KRW") ? "KRW" : "")),
      cell(percent(one.spread, 3)), cell(this.#rate(one, ts)), cell(reason, "left"));
    return tr;
  }

  #rate(one, ts) {
    const before = this.before.get(one.venue);
    if (!before || ts - before.ts >= 900) this.before.set(one.venue, { ts, updates: one.updates, rate: before ? (one.updates - before.updates) / ((ts - before.ts) / 1000) : 0 });
    return rate(Math.max(0, this.before.get(one.venue).rate));
  }
}

/** Detected losses, newest first. */
export class GapTable {
  constructor(table, count) { this.table = table; this.count = count; this.gaps = new Map(); this.texts(); }

  texts() { headings(this.table, [["time"], ["what", "left"], ["state", "left"], ["count"]]); this.draw(); }

  add(gaps) {
    for (const one of gaps) this.gaps.set(`${one.ts}/${one.publisher}/${one.kind}/${one.market}/${one.first}`, one);
    while (this.gaps.size > 200) this.gaps.delete(this.gaps.keys().next().value);
    this.draw();
  }

  draw() {
    const newest = [...this.gaps.values()].sort((a, b) => b.ts - a.ts);
    this.count.textContent = newest.length ? t("gapsCount", { count: newest.length }) : "";
    this.table.tHead.hidden = !newest.length;
    if (!newest.length) {
      const tr = document.createElement("tr");
      tr.append(element("td", "empty", t("noGaps")));
      this.table.tBodies[0].replaceChildren(tr);
      return;
    }
    this.table.tBodies[0].replaceChildren(...newest.slice(0, 50).map((one) => {
      const tr = document.createElement("tr");
      const what = element("td", "left what", [one.kind, one.exchange].filter(Boolean).join(" · "));
      const more = element("small", "", [one.market, reasonText(one.reason)].filter(Boolean).join(" · "));
      more.title = more.textContent;
      what.append(more);
      tr.append(cell(clock(one.ts)), what, cell(state(one.status), "left"), cell(one.count));
      return tr;
    }));
  }
}

// a process's rate is that of the first of these counters that it has
const RATES = ["frames", "messages", "bus_received", "received", "published", "ticks", "rows_stored", "requests"];
const PROBLEMS = ["malformed", "dropped", "gaps", "bus_gaps", "messages_lost", "trades_lost", "rows_dead"];

/** The platform's processes: rate with a short history, latency, problems. */
export class PipelinePanel {
  constructor(node, total) { this.node = node; this.total = total; this.history = new Map(); }

  /** Show that the panel needs an operator's key. */
  refuse() {
    this.total.textContent = "";
    this.node.replaceChildren(element("p", "empty", t("operatorOnly")));
  }

  show(pipeline) {
    const processes = pipeline.processes;
    const ready = processes.filter((one) => one.state === "ready" && one.age_ms < 5000).length;
    this.total.textContent = processes.length ? t("processes", { ready, all: processes.length }) : "";
    if (!processes.length) { this.node.replaceChildren(element("p", "empty", t("noPipeline"))); return; }
    this.node.replaceChildren(...processes.map((one) => this.#stage(one, pipeline.ts)));
  }

  #stage(one, ts) {
    const node = element("div", "stage");
    const down = one.age_ms > 5000;
    node.append(element("b", "", one.process), state(down ? "down" : one.state));
    const value = this.#rate(one, ts);
    const shown = element("span", "rate", rate(value.now));
    shown.append(element("small", "", t("perSecond")));
    const latency = latencyOf(one);
    if (latency !== null) shown.append(element("small", "latency", `${t("latency")} ${duration(latency)}`));
    node.append(shown, sparkline(value.points));
    const problems = PROBLEMS.map((name) => [name, sum(one.counters, name)]).filter(([, count]) => count > 0);
    const text = one.reason ? outside(one.reason) : problems.map(([name, count]) => `${name} ${count}`).join(" · ");
    if (text) { const line = element("p", one.reason && one.state !== "ready" ? "bad" : "", text); line.title = text; node.append(line); }
    return node;
  }

  #rate(one, ts) {
    const name = RATES.find((key) => sum(one.counters, key) !== null);
    const value = name ? sum(one.counters, name) : 0;
    const entry = this.history.get(one.process) ?? { value, ts, points: [], now: 0 };
    if (ts > entry.ts) {
      entry.now = Math.max(0, (value - entry.value) / ((ts - entry.ts) / 1000));
      entry.points = [...entry.points, entry.now].slice(-SPARK);
      entry.value = value;
      entry.ts = ts;
    }
    this.history.set(one.process, entry);
    return entry;
  }
}

// median from receipt to publishing; for processes that publish nothing, the time of their writes
function latencyOf(one) {
  if (one.latency_us !== null) return one.latency_us * 1e3;
  const flush = one.counters.flush_ms;
  return flush === undefined ? null : flush * 1e6;
}

function duration(ns) {
  return ns < 1e6 ? `${(ns / 1e3).toFixed(0)} µs` : `${(ns / 1e6).toFixed(1)} ms`;
}

function sum(counters, name) {
  let total = null;
  for (const [key, value] of Object.entries(counters)) if (key === name || key.startsWith(`${name}{`)) total = (total ?? 0) + value;
  return total;
}

function sparkline(points) {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 84 26");
  svg.setAttribute("aria-hidden", "true");
  const top = Math.max(...points, 1e-9);
  const path = document.createElementNS(namespace, "path");
  path.setAttribute("d", points.map((value, i) => `${i ? "L" : "M"}${((i / Math.max(1, points.length - 1)) * 84).toFixed(1)} ${(24 - (value / top) * 21).toFixed(1)}`).join(""));
  svg.append(path);
  return svg;
}
