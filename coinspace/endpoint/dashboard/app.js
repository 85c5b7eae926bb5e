// The page: one state, one stream, and panels that show the state.

import { Stream, get, onKeyNeeded, onServerTime, saveKey } from "./api.js";
import { AlertPanel } from "./alert-panel.js";
import { AssetList, sign } from "./assets.js";
import { PriceChart } from "./charts.js";
import { DepthChart, REACHES } from "./depth.js";
import { age, clock, columnSize, distance, percent, price, size } from "./format.js";
import { applyTexts, currentLanguage, reasonText, setLanguage, t } from "./i18n.js";
import { Ladder, element, showLegend, write } from "./ladder.js";
import { GapTable, PipelinePanel, VenueTable } from "./panels.js";
import { BASES, OLD_MS, PremiumFeed, WINDOWS } from "./premium-feed.js";
import { PremiumTable } from "./premium-table.js";
import { PremiumTop, RANGES as PAST } from "./premium-top.js";
import { browser } from "./storage.js";
import { TradePanel } from "./trades.js";

const MINUTE = 60_000;
const INTERVALS = { "1s": 1000, "1m": MINUTE, "5m": 5 * MINUTE, "1h": 60 * MINUTE, "1d": 1440 * MINUTE };
// range -> [length in ms, its interval]
const RANGES = { "5m": [5 * MINUTE, "1s"], "15m": [15 * MINUTE, "1s"], "1h": [60 * MINUTE, "1m"], "6h": [360 * MINUTE, "1m"], "1d": [1440 * MINUTE, "5m"], "7d": [10080 * MINUTE, "1h"], "30d": [43200 * MINUTE, "1h"] };
const CANDLES_LIMIT = 1000;
// an older value is shown as stale, even when the stream is connected
const STALE_MS = 3000;
const HISTORY_RETRY_MS = 10_000;
// history again: once after the first values are stored, then at this interval
const [HISTORY_SOON_MS, HISTORY_MS] = [5000, 60_000];
const BEAT_MS = 500;
// how often the list of assets is read again
const LISTED_MS = 60_000;
// a longer pause between two beats: the computer or the page slept (hidden pages have one beat a minute)
const ASLEEP_MS = 90_000;
// a larger difference between the browser's clock and the server's is reported
const CLOCK_MS = 30_000;
const TRADE_MS = 2000;
// the money for which the premium is computed when both legs trade
const TRADE_KRW = 10_000_000;
const VIEWS = ["market", "premiums", "operations"];
// the parts of the page's address that name a page; an asset is an address without a slash
const PAGES = { "/premium": "premiums", "/operations": "operations" };
const COLOURS = ["green", "red"];

const byId = (id) => document.getElementById(id);
const stored = (key, values, fallback) => (values.includes(browser.get(key)) ? browser.get(key) : fallback);

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
  view: "market",
  basis: stored("premiumBasis", BASES, "coin"), window: stored("premiumWindow", WINDOWS, "24h"), past: "1d", rows: new Map(),
  // colour of a rising price; null = as usual where the language is spoken
  colours: stored("colours", COLOURS, null),
  // the premium when both legs trade, its range of the day, the assets whose venues have fees
  trade: null, day: null, fees: new Set(),
  // server time minus browser time: a wrong clock of the browser must not make values stale
  offset: null,
};
state.interval = RANGES[state.range][1];
document.documentElement.dataset.theme = state.theme;

const chart = new PriceChart(byId("chart"), byId("chart-readout"));
const depth = new DepthChart(byId("depth"), byId("depth-readout"));
const ladder = new Ladder(byId("ladder"), byId("ladder-legend"));
const venues = new VenueTable(byId("venues"));
const gaps = new GapTable(byId("gaps"), byId("gaps-count"));
const pipeline = new PipelinePanel(byId("pipeline"), byId("pipeline-total"));
const list = new AssetList(byId("assets"), (asset) => { pick(false); choose(asset); });
const feed = new PremiumFeed(onPremiums);
const trades = new TradePanel(byId("trades"));
const table = new PremiumTable(byId("premium-list"), { open: openAsset, sparks: (asset) => (feed.sparksOf === state.basis ? feed.sparks.get(asset) : null) ?? null });
const top = new PremiumTop(byId("premium-top"), () => now());
const alerts = new AlertPanel(byId("alert-dialog"), byId("alert-message"), () => { texts(); connect(); });
let stream = null;
let loading = 0;

const now = () => Date.now() + (state.offset ?? 0);
const setClock = (serverMs) => { state.offset = serverMs - Date.now(); };
// whether a value or book is too old to rely on; one of the future is as unreliable
const old = (one) => Math.abs(now() - one.ts) > STALE_MS;

// --- live -----------------------------------------------------------------------------------

function onEvent(name, data) {
  if (name === "index") onIndex(data);
  else if (name === "book" && data.asset === state.asset) { state.book = data; schedule("book"); }
  else if (name === "premiums") { setClock(data.ts); feed.take(data); }
  else if (name === "venues") { state.venues = data; alerts.alerts.checkVenues(data.venues, data.ts); schedule("venues"); }
  else if (name === "pipeline") { state.pipeline = data; schedule("pipeline"); }
  else if (name === "gaps") gaps.add(data.gaps);
  else if (name === "gap") loadHistory();
  else if (name === "heartbeat") setClock(data.ts);
  else if (name === "shutdown") setConnection("cut");
}

function onIndex(one) {
  const before = state.values.get(one.asset);
  setClock(one.ts + one.age_ms);
  state.values.set(one.asset, one);
  if (one.asset !== state.asset) return;
  if (chart.update(one) && !loadHistory.busy) loadHistory();
  if (before?.value && one.value && before.value !== one.value) flash(+one.value > +before.value);
  schedule("hero");
  // a hidden tab draws nothing, but shows its title
  drawTitle();
}

// rules are checked when values arrive: a hidden page draws nothing
function onPremiums() {
  state.rows = feed.rows(state.basis, state.window, now());
  alerts.alerts.checkPremiums(state.rows, now());
  schedule("premiums");
  drawTitle();
}

// drawn at most once per frame, however fast events arrive
const due = new Set();
function schedule(part) {
  if (!due.size) requestAnimationFrame(() => { const parts = [...due]; due.clear(); parts.forEach((one) => draw[one]()); });
  due.add(part);
}

const draw = {
  hero: () => { if (state.view === "market") drawHero(); },
  assets: () => { if (state.view === "market") list.show(state.assets, state.values, state.asset, old); },
  book: () => { if (state.book && state.view === "market") { ladder.show(state.book); depth.show(state.book.profile); drawDepthTable(); showLegend(byId("depth-legend"), state.book); } },
  venues: () => state.view === "market" && state.venues && venues.show(state.venues.venues, state.asset, state.venues.ts),
  pipeline: () => { if (!state.operator) pipeline.refuse(); else if (state.pipeline) pipeline.show(state.pipeline); },
  premiums: drawPremiums,
  connection: drawConnection,
};

// what the view shows and what the alerts need; the table of premiums needs no books
function channels() {
  const { needsPremiums, needsVenues } = alerts.alerts;
  if (state.view === "premiums") return { premiums: "true", ...(needsVenues ? { platform: "venues" } : {}) };
  const platform = ["venues", "gaps", ...(state.operator ? ["pipeline"] : [])].join();
  return { indices: "*", books: state.asset, platform, ...(needsPremiums ? { premiums: "true" } : {}) };
}

function connect() {
  stream?.stop();
  stream = new Stream(`/v1/stream?${new URLSearchParams(channels())}`, onEvent, (value) => { if (value === "live" && state.connection === "cut") { loadHistory(); loadFees(); } setConnection(value); });
  stream.start();
}

function setConnection(value) { state.connection = value; schedule("connection"); }

// what the page shows is as good as its data: an open connection alone is not "live"
function shownState() {
  if (state.connection !== "live") return state.connection;
  if (state.view === "premiums") return feed.newest === null ? "connecting" : Math.abs(now() - feed.newest) > OLD_MS ? "stale" : "live";
  const one = state.values.get(state.asset);
  if (!one) return "connecting";
  return old(one) ? "stale" : one.value === null ? "no_value" : "live";
}

const stateText = (shown) => t({ stale: "staleShort" }[shown] ?? shown);

function noticeText(shown) {
  const one = state.values.get(state.asset);
  if (shown === "cut") return t("noticeCut");
  if (state.view === "premiums") return shown === "stale" ? t("noticePremiums", { time: clock(feed.newest) }) : clockText();
  // a time, not an age: a text that changes all the time would be read aloud all the time
  if (shown === "stale") return t("noticeStale", { time: clock(one.ts) });
  if (shown === "no_value") return t("noticeNull", { reason: reasonText(one.reason) });
  if (state.unknown) return t("noticeUnknown", { asset: state.unknown, known: some(state.assets) });
  if (state.book && old(state.book)) return t("noticeBook", { time: clock(state.book.ts) });
  return clockText();
}

const clockText = () => (Math.abs(state.offset ?? 0) > CLOCK_MS ? t(state.offset > 0 ? "noticeSlow" : "noticeFast") : "");

const some = (names) => [...names.slice(0, 10), ...(names.length > 10 ? ["…"] : [])].join(", ");

function drawConnection() {
  const shown = shownState();
  byId("connection").className = `pill ${shown}`;
  byId("connection").dataset.state = shown;
  write(byId("connection").lastElementChild, stateText(shown));
  const text = noticeText(shown);
  byId("notice").hidden = !text;
  byId("notice").className = `notice ${shown === "cut" ? "cut" : ""}`;
  write(byId("notice"), text);
  const parts = { ladder: state.book, depth: state.book, "depth-table": state.book, venues: state.venues, pipeline: state.pipeline };
  for (const [id, data] of Object.entries(parts)) byId(id).classList.toggle("old", Boolean(data) && old(data));
  // asked for, not sent: without answers the panel becomes old
  byId("trades").classList.toggle("old", now() - (state.tradesAt ?? 0) > STALE_MS + TRADE_MS);
  drawTitle();
}

// a tab shows a price only while the price can be relied on
function drawTitle() {
  const one = state.values.get(state.asset);
  const shown = shownState();
  const text = state.view === "premiums" ? premiumTitle(shown) : !one ? "CoinSpace" : shown === "live" ? `${price(one.value)} ${state.asset} · CoinSpace` : `${stateText(shown)} · ${state.asset} · CoinSpace`;
  if (document.title !== text) document.title = text;
}

function premiumTitle(shown) {
  const value = state.rows.get("BTC")?.[state.basis] ?? null;
  return `${shown !== "live" ? stateText(shown) : value === null ? t("premiums") : `BTC ${percent(value, 2, true)} ${t(`alert_${state.basis}`)}`} · CoinSpace`;
}

// --- premiums -------------------------------------------------------------------------------

function drawPremiums() {
  if (state.view !== "premiums") return;
  const stale = shownState() !== "live";
  table.show(state.rows);
  byId("premium-list").classList.toggle("old", stale && state.rows.size > 0);
  byId("premium-list").classList.toggle("no-wallets", ![...state.rows.values()].some((one) => one.wallet));
  top.show(feed.row("BTC", state.window, now()), feed.usdt, state.window, stale);
  write(byId("premium-count"), t("premiumCount", { shown: table.order.length, all: state.rows.size }));
  write(byId("premium-note"), state.rows.size ? feesText() : t("noPremiums"));
}

function feesText() {
  const found = Object.entries(feed.fees ?? {});
  return found.length ? t("feesNote", { fees: found.map(([exchange, fee]) => `${exchange} ${percent(fee, 3).replace(/0+%$/, "%")}`).join(", ") }) : "";
}

function openAsset(asset) {
  if (!state.assets.includes(asset)) return;
  // a different asset is a step of the history itself
  chooseView("market", asset === state.asset);
  choose(asset);
  scrollTo(0, 0);
}

// the history and the small lines, when they are due; not before the server's time is known
function loadPremiums() {
  if (state.offset === null) return;
  top.beat();
  feed.loadSparks(state.basis);
}

async function openAlerts() {
  alerts.open([...state.rows.keys()].sort());
  if (!state.venues) try { state.venues = await get("/v1/venues"); } catch { /* no exchange can be chosen */ }
  alerts.offer([...new Set((state.venues?.venues ?? []).map((one) => one.exchange))]);
}

function choosePremiums(change) {
  Object.assign(state, change);
  browser.set("premiumBasis", state.basis);
  browser.set("premiumWindow", state.window);
  buttons();
  onPremiums();
  table.arrange();
  feed.loadSparks(state.basis);
}

// --- hero -----------------------------------------------------------------------------------

function drawHero() {
  const one = state.values.get(state.asset);
  write(byId("asset-name"), state.asset ?? "");
  write(byId("pick-name"), state.asset ?? "–");
  if (!one) { byId("value").textContent = byId("premium").textContent = "–"; byId("status").textContent = ""; byId("age").textContent = t("waiting"); byId("facts").replaceChildren(); return; }
  const status = old(one) ? "stale" : one.status;
  write(byId("currency"), one.currency);
  write(byId("value"), price(one.value));
  write(byId("premium"), percent(one.premium?.coin, 3, true));
  byId("premium").className = sign(one.premium?.coin);
  write(byId("premium-day"), day(one));
  write(byId("premium-fiat"), one.premium?.fiat ? t("fiat", { percent: percent(one.premium.fiat, 2, true) }) : "");
  byId("status").className = `chip ${status}`;
  write(byId("status"), t(status));
  byId("hero").classList.toggle("old", status === "stale");
  write(byId("age"), t("updated", { age: age(now() - one.ts) }));
  write(byId("reason"), reasonText(one.reason));
  const facts = [
    [t("kr"), price(one.kr?.value, "KRW"), one.kr?.value && one.fx ? `≈ ${price(+one.kr.value / +one.fx)}` : reasonText(one.kr?.reason)],
    [t("gl"), price(one.gl?.value), one.gl?.value ? "USDT" : reasonText(one.gl?.reason)],
    [t(state.fees.has(one.asset) ? "tradeAfter" : "tradeBefore"), ...trade(one)],
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
    shown.append(element("small", "", more));
    node.append(element("dt", "", name), shown);
    return node;
  }));
  write(byId("method"), one.parameter_hash ? t("method", { version: one.method_version, hash: one.parameter_hash }) : "");
}

// the premium's range of the last 24 h, and how much of that time it was lower or the same
function day(one) {
  const found = state.day?.asset === one.asset ? state.day.range : null;
  if (!found) return "";
  return t("day", { low: percent(found.low, 2, true), high: percent(found.high, 2, true), place: percent(found.percentile, 0) });
}

// the better of the two directions, with the sign of its result: a loss is negative
function trade(one) {
  if (state.trade?.asset !== one.asset || now() - state.trade.ts > STALE_MS + TRADE_MS || old(one)) return ["–", ""];
  const { sell_kr: sell, buy_kr: buy } = state.trade.row;
  const money = t("money");
  const ways = [["sell_kr", sell === null ? null : +sell], ["buy_kr", buy === null ? null : 1 / (1 + +buy) - 1]].filter(([, result]) => result !== null);
  if (!ways.length) return ["–", t("tooThin", { money })];
  const [way, result] = ways.reduce((a, b) => (b[1] > a[1] ? b : a));
  return [percent(result, 3, true), t(way, { money }), sign(result)];
}

async function loadTrade() {
  const one = state.values.get(state.asset);
  if (document.hidden || state.view !== "market" || !(+one?.kr?.value > 0)) return;
  try {
    const { asset, ts, premium, day: range, trades: left } = await get(`/v1/premium/${one.asset}`, { size: TRADE_KRW / +one.kr.value });
    const [row] = premium?.executable ?? [];
    state.tradesAt = left?.ts ?? ts;
    state.trade = row ? { asset, ts, row } : null;
    state.day = { asset, range };
    if (asset === state.asset) trades.show(left);
  } catch { /* the field becomes empty when its value is old */ }
}

async function loadFees() {
  try {
    const { definitions } = await get("/v1/methodology");
    state.fees = new Set(definitions.filter((one) => Object.values(one.parameters.taker_fees ?? {}).some((fee) => +fee > 0)).map((one) => one.asset));
  } catch { /* the field says "before fees" */ }
}

function flash(up) {
  const node = byId("value");
  node.classList.remove("up", "down");
  node.classList.add(up ? "up" : "down");
  clearTimeout(flash.timer);
  flash.timer = setTimeout(() => node.classList.remove("up", "down"), 320);
}

function drawDepthTable() {
  const format = columnSize(Math.max(1e-12, ...state.book.depth.flatMap((one) => [+one.bid, +one.ask])));
  byId("depth-table").replaceChildren(...state.book.depth.map((one) => {
    const node = element("div");
    const value = element("dd");
    value.append(element("span", "bid", format(one.bid)), " / ", element("span", "ask", format(one.ask)));
    node.append(element("dt", "", t("within", { percent: one.within_percent })), value);
    return node;
  }));
}

// --- history --------------------------------------------------------------------------------

async function loadHistory() {
  const [asset, interval] = [state.asset, state.interval];
  const turn = (loading += 1);
  const shown = `${asset}/${interval}/${state.range}`;
  const length = Math.min(RANGES[state.range][0], CANDLES_LIMIT * INTERVALS[interval]);
  const end = Math.ceil((now() + 1) / INTERVALS[interval]) * INTERVALS[interval];
  let candles = null;
  loadHistory.busy = true;
  try {
    candles = (await get(`/v1/indices/${asset}/ohlc`, { interval, start: end - length, end, limit: CANDLES_LIMIT })).candles;
    state.historyDown = false;
  } catch (error) {
    state.historyDown = true;
  }
  if (turn !== loading) return;
  loadHistory.busy = false;
  const fresh = loadHistory.shown !== shown;
  loadHistory.due = performance.now() + (candles === null ? HISTORY_RETRY_MS : fresh ? HISTORY_SOON_MS : HISTORY_MS);
  loadHistory.shown = candles === null && fresh ? null : shown;
  // a chart that was already shown stays when its history cannot be loaded again
  if (candles !== null || fresh) chart.load(trimmed(candles ?? []), INTERVALS[interval], fresh);
  if (candles !== null) byId("chart").dataset.candles = String(trimmed(candles).length);
  byId("chart-note").textContent = state.historyDown ? t("noticeHistory") : byId("chart").dataset.candles === "0" ? t("noHistory") : "";
  schedule("connection");
}

// empty candles before the first value would squeeze the others to the edge; live values follow the last one
function trimmed(candles) {
  const whole = (one) => one.close !== null;
  return candles.slice(candles.findIndex(whole) < 0 ? candles.length : candles.findIndex(whole), candles.findLastIndex(whole) + 1);
}

async function loadGaps() {
  try { gaps.add((await get("/v1/gaps", { limit: 50 })).gaps); } catch { /* the stream still sends new gaps */ }
}

// --- choices --------------------------------------------------------------------------------

// the asset that the address names in upper or lower case, else the unknown name
function addressed() {
  let name = location.hash.slice(1);
  if (Object.hasOwn(PAGES, name)) return { view: PAGES[name], found: null, unknown: null };
  try { name = decodeURIComponent(name); } catch { /* not percent-encoded: used as it is */ }
  const wanted = name.toUpperCase();
  const found = state.assets.find((one) => one.toUpperCase() === wanted);
  // the id of an element of the page is not an unknown asset
  return { found, unknown: found || !name || document.getElementById(name) ? null : name.slice(0, 20) };
}

// choose the asset of the address, or report that it has no index
function follow() {
  const { view = "market", found, unknown } = addressed();
  if (view === "market" && !found && !unknown) return;
  chooseView(view, false);
  if (view !== "market") return;
  choose(found);
  state.unknown = unknown;
  history.replaceState(null, "", `#${state.asset}`);
  schedule("connection");
}

function choose(asset) {
  if (!asset || asset === state.asset) return;
  // a choice adds a step to the browser's history; an address is only corrected
  const here = addressed();
  const step = state.asset !== null && here.found !== asset;
  if (state.view === "market") history[step ? "pushState" : "replaceState"](null, "", `#${asset}`);
  state.asset = asset;
  state.unknown = null;
  state.book = state.trade = null;
  trades.show(trades.trades === undefined ? undefined : null);
  browser.set("asset", asset);
  ["hero", "assets", "venues", "connection"].forEach(schedule);
  chart.clear();
  loadHistory.shown = null;
  connect();
  loadHistory();
}

function chooseRange(range) {
  state.range = range;
  state.interval = RANGES[range][1];
  browser.set("range", range);
  buttons();
  loadHistory();
}

function chooseInterval(interval) { state.interval = interval; buttons(); loadHistory(); }

function chooseStyle(style) {
  state.style = style;
  browser.set("style", style);
  chart.setStyle(style);
  buttons();
}

function chooseReach(reach) {
  state.reach = reach;
  browser.set("reach", reach);
  depth.setReach(+reach);
  buttons();
}

function chooseTheme(theme) {
  state.theme = theme;
  browser.set("theme", theme);
  document.documentElement.dataset.theme = theme;
  texts();
}

// the list of assets covers the page where it has no column of its own
function pick(open = !document.body.classList.contains("picking")) {
  document.body.classList.toggle("picking", open);
  byId("pick").setAttribute("aria-expanded", String(open));
  if (open) list.search.focus();
}

// Args: step: whether it becomes a step of the browser's history
function chooseView(view, step = true) {
  if (view === state.view) return;
  const others = [view, state.view].includes("premiums");
  state.view = view;
  for (const one of VIEWS) byId(one).hidden = one !== view;
  byId("pick").hidden = view !== "market";
  if (step) history.pushState(null, "", `#${Object.keys(PAGES).find((one) => PAGES[one] === view) ?? state.asset}`);
  buttons();
  if (view === "premiums") loadPremiums();
  if (others && state.asset) {
    connect();
    // the values that came meanwhile
    if (view !== "premiums") loadHistory();
  }
  Object.keys(draw).forEach(schedule);
}

const colours = () => state.colours ?? (currentLanguage() === "ko" ? "red" : "green");

function chooseColours(name) {
  state.colours = name;
  browser.set("colours", name);
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
  group("views", VIEWS, state.view, chooseView, (name) => t(name));
  group("style", ["line", "candles"], state.style, chooseStyle, (name) => t(name));
  group("reaches", REACHES, state.reach, chooseReach, (name) => `±${name}%`);
  group("premium-bases", BASES, state.basis, (basis) => choosePremiums({ basis }), (name) => t(`alert_${name}`));
  group("premium-windows", WINDOWS, state.window, (window) => choosePremiums({ window }));
  group("premium-ranges", Object.keys(PAST), state.past, (past) => { state.past = past; buttons(); top.load(past); });
  group("ranges", Object.keys(RANGES), state.range, chooseRange);
  group("intervals", Object.keys(INTERVALS), state.interval, chooseInterval, (name) => name,
    (name) => length / INTERVALS[name] > CANDLES_LIMIT || length / INTERVALS[name] < 2);
  byId("legend").replaceChildren(...[["index", "indexLine"], ["kr", "krConverted"], ["gl", "gl"], ["premium", "premium"]].map(([name, key]) => {
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

const SHORTCUTS = [["1 – 9", "keyAssets"], ["C", "keyStyle"], ["[  ]", "keyRange"], ["/", "keySearch"], ["P", "keyPremium"], ["O", "keyView"], ["T", "keyTheme"], ["L", "keyLanguage"], ["?", "keyHelp"]];

function texts() {
  applyTexts();
  byId("language").textContent = currentLanguage() === "ko" ? "EN" : "한국어";
  byId("theme").textContent = state.theme === "dark" ? t("themeLight") : t("themeDark");
  document.documentElement.dataset.up = colours();
  byId("colours").setAttribute("aria-label", t(colours() === "red" ? "upGreen" : "upRed"));
  byId("colours").title = byId("colours").ariaLabel;
  byId("help").setAttribute("aria-label", t("keyHelp"));
  byId("shortcuts").replaceChildren(...SHORTCUTS.flatMap(([keys, key]) => {
    const name = element("dt");
    name.append(element("kbd", "", keys));
    return [name, element("dd", "", t(key))];
  }));
  venues.texts();
  gaps.texts();
  ladder.texts();
  list.texts();
  table.texts();
  trades.texts();
  top.texts();
  alerts.texts();
  const count = alerts.alerts.rules.length;
  write(byId("alerts"), count ? t("alertsCount", { count }) : t("alerts"));
  chart.theme();
  depth.draw();
  buttons();
  Object.keys(draw).forEach(schedule);
}

function onKey(event) {
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey || event.altKey || (["INPUT", "SELECT"].includes(event.target.tagName) && key !== "escape")) return;
  const ranges = Object.keys(RANGES);
  const at = ranges.indexOf(state.range);
  if (key >= "1" && key <= "9") { if (state.view === "market") choose(list.order[+key - 1]); }
  else if (key === "c") chooseStyle(state.style === "line" ? "candles" : "line");
  else if (key === "[" && at > 0) chooseRange(ranges[at - 1]);
  else if (key === "]" && at < ranges.length - 1) chooseRange(ranges[at + 1]);
  else if (key === "/") { if (state.view === "premiums") table.search.focus(); else pick(true); }
  else if (key === "o") chooseView(state.view === "operations" ? "market" : "operations");
  else if (key === "p") chooseView(state.view === "premiums" ? "market" : "premiums");
  else if (key === "escape") pick(false);
  else if (key === "t") chooseTheme(state.theme === "dark" ? "light" : "dark");
  else if (key === "l") toggleLanguage();
  else if (key === "?") byId("help-dialog").showModal();
  else return;
  event.preventDefault();
}

function toggleLanguage() { setLanguage(currentLanguage() === "ko" ? "en" : "ko"); texts(); }

// --- start ----------------------------------------------------------------------------------

async function loadIndices() {
  const { indices, missing } = await get("/v1/indices");
  for (const one of indices) { state.values.set(one.asset, one); setClock(one.ts + one.age_ms); }
  state.assets = [...indices.map((one) => one.asset), ...missing];
}

// assets whose index has begun since: they are listed on enough exchanges now
async function loadListed() {
  let found;
  try {
    const { indices, missing } = await get("/v1/indices");
    found = [...indices.map((one) => one.asset), ...missing];
  } catch { return; }
  if (found.every((one) => state.assets.includes(one))) return;
  state.assets = found;
  schedule("assets");
  if (state.view === "market") connect();
}

async function begin() {
  chooseView(addressed().view ?? "market", false);
  texts();
  drawConnection();
  for (;;) {
    try {
      await loadIndices();
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
  loadFees();
  beat.last = Date.now();
  setInterval(beat, BEAT_MS);
  setInterval(loadListed, LISTED_MS);
}

// after a sleep: events that waited meanwhile must not be taken for new ones
async function wake() {
  stream?.stop();
  state.offset = null;
  // not before the server's time is known again
  top.due = feed.sparksDue = 0;
  loadHistory.busy = true;
  try { await loadIndices(); } catch { /* the stream reports that the server does not answer */ }
  connect();
  loadGaps();
  loadHistory();
}

// what happens without events: ages, and loading again
function beat() {
  const pause = Date.now() - beat.last;
  beat.last = Date.now();
  if (Math.abs(pause) > ASLEEP_MS) {
    wake();
  } else if (performance.now() > (loadHistory.due ?? Infinity) && !loadHistory.busy && !document.hidden) loadHistory();
  if (performance.now() > (loadTrade.due ?? 0)) { loadTrade.due = performance.now() + TRADE_MS; loadTrade(); }
  drawTitle();
  if (state.view === "premiums" && !document.hidden) loadPremiums();
  if (performance.now() > (beat.ages ?? 0)) { beat.ages = performance.now() + 2 * BEAT_MS; ageRows(); }
  // nothing is drawn where nothing has changed
  if (state.view === "premiums") drawConnection(); else ["connection", "hero", "assets"].forEach(schedule);
}

// without events the rows become old
function ageRows() {
  if (feed.ts !== null && now() - feed.ts > OLD_MS) onPremiums();
}

onServerTime((time) => { if (state.offset === null) setClock(time); });
// the headings of a long table stay below the bar, whose height depends on the width
new ResizeObserver(([{ target }]) => document.documentElement.style.setProperty("--bar", `${target.offsetHeight}px`)).observe(document.querySelector(".bar"));
onKeyNeeded(() => { if (!byId("key-dialog").open) byId("key-dialog").showModal(); });
byId("key-form").addEventListener("submit", () => { saveKey(byId("key").value.trim()); location.reload(); });
byId("language").addEventListener("click", toggleLanguage);
byId("theme").addEventListener("click", () => chooseTheme(state.theme === "dark" ? "light" : "dark"));
byId("colours").addEventListener("click", () => chooseColours(COLOURS.find((one) => one !== colours())));
byId("premium-only").addEventListener("click", () => {
  const only = byId("premium-only").getAttribute("aria-pressed") !== "true";
  byId("premium-only").setAttribute("aria-pressed", String(only));
  table.favouritesOnly(only);
  schedule("premiums");
});
byId("alerts").addEventListener("click", openAlerts);
byId("pick").addEventListener("click", () => pick());
byId("help").addEventListener("click", () => byId("help-dialog").showModal());
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", follow);
chart.setStyle(state.style);
depth.setReach(+state.reach);
begin();
