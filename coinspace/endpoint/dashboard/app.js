// The page: one state, one stream, and panels that show the state.

import { Stream, get, onKeyNeeded, saveKey } from "./api.js";
import { PriceChart } from "./charts.js";
import { DepthChart, REACHES } from "./depth.js";
import { age, distance, percent, price, size } from "./format.js";
import { applyTexts, currentLanguage, reasonText, setLanguage, t } from "./i18n.js";
import { Ladder, element, showLegend } from "./ladder.js";
import { GapTable, PipelinePanel, VenueTable } from "./panels.js";

const MINUTE = 60_000;
const INTERVALS = { "1s": 1000, "1m": MINUTE, "5m": 5 * MINUTE, "1h": 60 * MINUTE, "1d": 1440 * MINUTE };
// range -> [length in ms, its interval]
const RANGES = { "5m": [5 * MINUTE, "1s"], "15m": [15 * MINUTE, "1s"], "1h": [60 * MINUTE, "1m"], "6h": [360 * MINUTE, "1m"], "1d": [1440 * MINUTE, "5m"], "7d": [10080 * MINUTE, "1h"], "30d": [43200 * MINUTE, "1h"] };
const CANDLES_LIMIT = 1000;
// an older value is shown as stale, even when the stream is connected
const STALE_MS = 3000;
const HISTORY_RETRY_MS = 10_000;

const byId = (id) => document.getElementById(id);
const stored = (key, values, fallback) => (values.includes(localStorage.getItem(key)) ? localStorage.getItem(key) : fallback);

const state = {
  assets: [], asset: null, values: new Map(), book: null, venues: null, pipeline: null,
  connection: "connecting", historyDown: false,
  // asset of the page's address, when it has no index
  unknown: null,
  // whether this tab's key may read the processes
  operator: true,
  range: stored("range", Object.keys(RANGES), "15m"), interval: null, style: stored("style", ["line", "candles"], "line"),
  reach: stored("reach", REACHES, "0.5"),
  theme: stored("theme", ["dark", "light"], matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark"),
  // server time minus browser time: a wrong clock of the browser must not make values stale
  offset: 0,
};
state.interval = RANGES[state.range][1];
document.documentElement.dataset.theme = state.theme;

const chart = new PriceChart(byId("chart"));
const depth = new DepthChart(byId("depth"), byId("depth-readout"));
const ladder = new Ladder(byId("ladder"), byId("ladder-legend"));
const venues = new VenueTable(byId("venues"));
const gaps = new GapTable(byId("gaps"), byId("gaps-count"));
const pipeline = new PipelinePanel(byId("pipeline"), byId("pipeline-total"));
let stream = null;
let loading = 0;

const now = () => Date.now() + state.offset;

// --- live -----------------------------------------------------------------------------------

function onEvent(name, data) {
  if (name === "index") onIndex(data);
  else if (name === "book" && data.asset === state.asset) { state.book = data; schedule("book"); }
  else if (name === "venues") { state.venues = data; schedule("venues"); }
  else if (name === "pipeline") { state.pipeline = data; schedule("pipeline"); }
  else if (name === "gaps") gaps.add(data.gaps);
  else if (name === "gap") loadHistory();
  else if (name === "shutdown") setConnection("cut");
}

function onIndex(one) {
  const before = state.values.get(one.asset);
  state.offset = one.ts + one.age_ms - Date.now();
  state.values.set(one.asset, one);
  if (one.asset === state.asset) {
    chart.update(one);
    if (before?.value && one.value && before.value !== one.value) flash(+one.value > +before.value);
    schedule("hero");
  }
  schedule("tabs");
}

// drawn at most once per frame, however fast events arrive
const due = new Set();
function schedule(part) {
  if (!due.size) requestAnimationFrame(() => { const parts = [...due]; due.clear(); parts.forEach((one) => draw[one]()); });
  due.add(part);
}

const draw = {
  hero: drawHero, tabs: drawTabs,
  book: () => { if (state.book) { ladder.show(state.book); depth.show(state.book.profile); drawDepthTable(); showLegend(byId("depth-legend"), state.book); } },
  venues: () => state.venues && venues.show(state.venues.venues, state.asset, state.venues.ts),
  pipeline: () => { if (!state.operator) pipeline.refuse(); else if (state.pipeline) pipeline.show(state.pipeline); },
  connection: drawConnection,
};

function connect() {
  stream?.stop();
  const query = new URLSearchParams({ indices: "*", books: state.asset, platform: state.operator ? "venues,gaps,pipeline" : "venues,gaps" });
  stream = new Stream(`/v1/stream?${query}`, onEvent, (value) => { if (value === "live" && state.connection === "cut") loadHistory(); setConnection(value); });
  stream.start();
}

function setConnection(value) { state.connection = value; schedule("connection"); }

// distance of a value's time from now: a value of the future is as unreliable as an old one
function unreliable(one) { return Math.abs(now() - one.ts); }

function staleness() {
  const one = state.values.get(state.asset);
  return one ? unreliable(one) : null;
}

function drawConnection() {
  const old = staleness();
  const stale = state.connection === "live" && old !== null && old > STALE_MS;
  const shown = stale ? "stale" : state.connection;
  byId("connection").className = `pill ${shown}`;
  byId("connection").dataset.state = shown;
  byId("connection").lastElementChild.textContent = t(shown === "stale" ? "staleShort" : shown);
  const notice = byId("notice");
  const text = state.connection === "cut" ? t("noticeCut") : stale ? t("noticeStale", { age: age(old) }) : state.unknown ? t("noticeUnknown", { asset: state.unknown, known: state.assets.join(", ") }) : state.historyDown ? t("noticeHistory") : "";
  notice.hidden = !text;
  notice.className = `notice ${state.connection === "cut" ? "cut" : ""}`;
  if (notice.textContent !== text) notice.textContent = text;
  document.title = title();
}

function title() {
  const one = state.values.get(state.asset);
  return one?.value ? `${price(one.value)} ${state.asset} · CoinSpace` : "CoinSpace";
}

// --- hero -----------------------------------------------------------------------------------

function drawHero() {
  const one = state.values.get(state.asset);
  byId("asset-name").textContent = state.asset ?? "";
  if (!one) { byId("value").textContent = "–"; byId("status").textContent = ""; byId("age").textContent = t("waiting"); byId("facts").replaceChildren(); return; }
  byId("currency").textContent = one.currency;
  byId("value").textContent = one.value === null ? "–" : price(one.value);
  const old = now() - one.ts;
  const status = unreliable(one) > STALE_MS ? "stale" : one.status;
  byId("status").className = `chip ${status}`;
  byId("status").textContent = t(status);
  byId("value").classList.toggle("old", status === "stale");
  byId("age").textContent = t("updated", { age: age(old) });
  byId("reason").textContent = reasonText(one.reason);
  const facts = [
    [t("kr"), price(one.kr?.value, "KRW"), one.kr?.value && one.fx ? `≈ ${price(+one.kr.value / +one.fx)}` : reasonText(one.kr?.reason)],
    [t("gl"), price(one.gl?.value), one.gl?.value ? "USDT" : reasonText(one.gl?.reason)],
    [t("premium"), percent(one.premium?.coin, 3, true), "", sign(one.premium?.coin)],
    [t("executable"), ...executable(one)],
    [t("fx"), price(one.fx, "KRW"), one.fx_status === "ok" ? "" : t(one.fx_status)],
    [t("spread"), price(one.best_bid), price(one.best_ask)],
    [t("twap"), price(one.twap_1m), one.twap_1m === null ? t("tooFew") : ""],
    [t("confidence"), distance(one.confidence), one.split ? t("split") : ""],
    [t("utilised"), size(one.utilised_depth), one.depth_limited ? t("limited") : state.asset],
    [t("median"), price(one.median_capped), ""],
  ];
  byId("facts").replaceChildren(...facts.map(([name, value, more, colour]) => {
    const node = element("div");
    const shown = element("dd", colour ?? "", value);
    if (more) shown.append(element("small", "", more));
    node.append(element("dt", "", name), shown);
    return node;
  }));
  byId("method").textContent = one.parameter_hash ? t("method", { version: one.method_version, hash: one.parameter_hash }) : "";
}

// the profitable direction: sell in Korea while prices are higher there, else buy; at the largest size that the books allow
function executable(one) {
  const way = +one.premium?.coin < 0 ? "buy_kr" : "sell_kr";
  const rows = one.premium?.executable ?? [];
  const row = rows.findLast((each) => each[way] !== null);
  if (row) return [percent(row[way], 3, true), t(way, { size: `${size(row.size)} ${one.asset}` })];
  return ["–", rows.length ? t("tooThin", { size: `${size(rows[0].size)} ${one.asset}` }) : ""];
}

const sign = (text) => (text === null || text === undefined ? "" : +text > 0 ? "pos" : +text < 0 ? "neg" : "");

function flash(up) {
  const node = byId("value");
  node.classList.remove("up", "down");
  node.classList.add(up ? "up" : "down");
  clearTimeout(flash.timer);
  flash.timer = setTimeout(() => node.classList.remove("up", "down"), 320);
}

function drawTabs() {
  const nav = byId("assets");
  if (nav.children.length !== state.assets.length) {
    nav.replaceChildren(...state.assets.map((asset) => {
      const button = element("button");
      button.type = "button";
      button.role = "tab";
      button.append(element("b", "", asset), element("span"));
      button.addEventListener("click", () => choose(asset));
      return button;
    }));
  }
  state.assets.forEach((asset, i) => {
    const one = state.values.get(asset);
    const button = nav.children[i];
    button.setAttribute("aria-selected", String(asset === state.asset));
    button.classList.toggle("stale", Boolean(one) && unreliable(one) > STALE_MS);
    button.lastElementChild.textContent = one ? price(one.value) : "–";
  });
}

function drawDepthTable() {
  byId("depth-table").replaceChildren(...state.book.depth.map((one) => {
    const node = element("div");
    const value = element("dd");
    value.append(element("span", "bid", size(one.bid)), " / ", element("span", "ask", size(one.ask)));
    node.append(element("dt", "", t("within", { percent: one.within_percent })), value);
    return node;
  }));
}

// --- history --------------------------------------------------------------------------------

async function loadHistory() {
  const [asset, interval] = [state.asset, state.interval];
  const turn = (loading += 1);
  const length = Math.min(RANGES[state.range][0], CANDLES_LIMIT * INTERVALS[interval]);
  const end = Math.ceil((now() + 1) / INTERVALS[interval]) * INTERVALS[interval];
  let candles = [];
  try {
    const page = await get(`/v1/indices/${asset}/ohlc`, { interval, start: end - length, end, limit: CANDLES_LIMIT });
    candles = page.candles;
    state.historyDown = false;
  } catch (error) {
    state.historyDown = true;
    clearTimeout(loadHistory.timer);
    loadHistory.timer = setTimeout(loadHistory, HISTORY_RETRY_MS);
  }
  if (turn !== loading) return;
  // empty candles before the first value would squeeze the others to the edge
  const first = candles.findIndex((one) => one.close !== null);
  candles = first < 0 ? [] : candles.slice(first);
  while (candles.length && candles.at(-1).close === null) candles.pop();
  chart.load(candles, INTERVALS[interval]);
  byId("chart").dataset.candles = String(candles.length);
  byId("chart-note").hidden = candles.length > 0;
  byId("chart-note").textContent = state.historyDown ? t("noticeHistory") : t("noHistory");
  schedule("connection");
}

async function loadGaps() {
  try { gaps.add((await get("/v1/gaps", { limit: 50 })).gaps); } catch { /* the stream still sends new gaps */ }
}

// --- choices --------------------------------------------------------------------------------

// the asset that the address names in upper or lower case, else the unknown name
function addressed() {
  let name = location.hash.slice(1);
  try { name = decodeURIComponent(name); } catch { /* not percent-encoded: used as it is */ }
  const wanted = name.toUpperCase();
  const found = state.assets.find((one) => one.toUpperCase() === wanted);
  // the id of an element of the page is not an unknown asset
  return { found, unknown: found || !name || document.getElementById(name) ? null : name.slice(0, 20) };
}

// choose the asset of the address, or report that it has no index
function follow() {
  const { found, unknown } = addressed();
  if (!found && !unknown) return;
  choose(found);
  state.unknown = unknown;
  history.replaceState(null, "", `#${state.asset}`);
  schedule("connection");
}

function choose(asset) {
  if (!asset || asset === state.asset) return;
  // a choice adds a step to the browser's history; an address is only corrected
  const step = state.asset !== null && addressed().found !== asset;
  history[step ? "pushState" : "replaceState"](null, "", `#${asset}`);
  state.asset = asset;
  state.unknown = null;
  state.book = null;
  localStorage.setItem("asset", asset);
  ["hero", "tabs", "venues", "connection"].forEach(schedule);
  chart.load([], INTERVALS[state.interval]);
  connect();
  loadHistory();
}

function chooseRange(range) {
  state.range = range;
  state.interval = RANGES[range][1];
  localStorage.setItem("range", range);
  buttons();
  loadHistory();
}

function chooseInterval(interval) { state.interval = interval; buttons(); loadHistory(); }

function chooseStyle(style) {
  state.style = style;
  localStorage.setItem("style", style);
  chart.setStyle(style);
  buttons();
}

function chooseReach(reach) {
  state.reach = reach;
  localStorage.setItem("reach", reach);
  depth.setReach(+reach);
  buttons();
}

function chooseTheme(theme) {
  state.theme = theme;
  localStorage.setItem("theme", theme);
  document.documentElement.dataset.theme = theme;
  chart.theme();
  depth.draw();
  texts();
}

function group(id, names, chosen, choice, label = (name) => name, disabled = () => false) {
  byId(id).replaceChildren(...names.map((name) => {
    const button = element("button", "", label(name));
    button.type = "button";
    button.dataset.value = name;
    button.disabled = disabled(name);
    button.setAttribute("aria-pressed", String(name === chosen));
    button.addEventListener("click", () => choice(name));
    return button;
  }));
}

function buttons() {
  const length = RANGES[state.range][0];
  group("style", ["line", "candles"], state.style, chooseStyle, (name) => t(name));
  group("reaches", REACHES, state.reach, chooseReach, (name) => `±${name}%`);
  group("ranges", Object.keys(RANGES), state.range, chooseRange);
  group("intervals", Object.keys(INTERVALS), state.interval, chooseInterval, (name) => name,
    (name) => length / INTERVALS[name] > CANDLES_LIMIT || length / INTERVALS[name] < 2);
  byId("legend").replaceChildren(...[["kr", "krConverted"], ["gl", "gl"], ["premium", "premium"]].map(([name, key]) => {
    const button = element("button", "", t(key));
    const mark = element("i");
    mark.style.setProperty("--c", `var(--${name})`);
    button.type = "button";
    button.prepend(mark);
    button.setAttribute("aria-pressed", String(!chart.hidden.has(name)));
    button.addEventListener("click", () => button.setAttribute("aria-pressed", String(chart.toggle(name))));
    return button;
  }));
}

const SHORTCUTS = [["1 – 9", "keyAssets"], ["C", "keyStyle"], ["[  ]", "keyRange"], ["T", "keyTheme"], ["L", "keyLanguage"], ["?", "keyHelp"]];

function texts() {
  applyTexts();
  byId("language").textContent = currentLanguage() === "ko" ? "EN" : "한국어";
  byId("theme").textContent = state.theme === "dark" ? t("themeLight") : t("themeDark");
  byId("help").setAttribute("aria-label", t("keyHelp"));
  byId("shortcuts").replaceChildren(...SHORTCUTS.flatMap(([keys, key]) => {
    const name = element("dt");
    name.append(element("kbd", "", keys));
    return [name, element("dd", "", t(key))];
  }));
  venues.texts();
  gaps.texts();
  ladder.texts();
  buttons();
  Object.keys(draw).forEach(schedule);
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "INPUT") return;
  const key = event.key.toLowerCase();
  const ranges = Object.keys(RANGES);
  const at = ranges.indexOf(state.range);
  if (key >= "1" && key <= "9") choose(state.assets[+key - 1]);
  else if (key === "c") chooseStyle(state.style === "line" ? "candles" : "line");
  else if (key === "[" && at > 0) chooseRange(ranges[at - 1]);
  else if (key === "]" && at < ranges.length - 1) chooseRange(ranges[at + 1]);
  else if (key === "t") chooseTheme(state.theme === "dark" ? "light" : "dark");
  else if (key === "l") toggleLanguage();
  else if (key === "?") byId("help-dialog").showModal();
  else return;
  event.preventDefault();
}

function toggleLanguage() { setLanguage(currentLanguage() === "ko" ? "en" : "ko"); texts(); }

// --- start ----------------------------------------------------------------------------------

async function begin() {
  texts();
  drawConnection();
  for (;;) {
    try {
      const { indices, missing } = await get("/v1/indices");
      for (const one of indices) state.values.set(one.asset, one);
      state.assets = [...indices.map((one) => one.asset), ...missing];
      break;
    } catch {
      setConnection("cut");
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
  try { state.pipeline = await get("/v1/pipeline"); } catch (error) { state.operator = error.status !== 403; }
  schedule("pipeline");
  const { found, unknown } = addressed();
  choose(found ?? stored("asset", state.assets, state.assets[0]));
  state.unknown = unknown;
  loadGaps();
  setInterval(() => { schedule("connection"); schedule("hero"); schedule("tabs"); }, 500);
}

onKeyNeeded(() => { if (!byId("key-dialog").open) byId("key-dialog").showModal(); });
byId("key-form").addEventListener("submit", () => { saveKey(byId("key").value.trim()); location.reload(); });
byId("language").addEventListener("click", toggleLanguage);
byId("theme").addEventListener("click", () => chooseTheme(state.theme === "dark" ? "light" : "dark"));
byId("help").addEventListener("click", () => byId("help-dialog").showModal());
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", follow);
chart.setStyle(state.style);
depth.setReach(+state.reach);
begin();
