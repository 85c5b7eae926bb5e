// The premium of one asset and that of USDT in large, with their history back to a year.

import { createChart, ColorType, CrosshairMode } from "./lightweight-charts.js";
import { get } from "./api.js";
import { sign } from "./assets.js";
import { HoledLine, mark, moment, share } from "./charts.js";
import { clock, cssColour, percent, price } from "./format.js";
import { t } from "./i18n.js";
import { element, write } from "./ladder.js";
import { number } from "./premium-feed.js";
import { points } from "./premium-table.js";

const DAY = 86_400_000;
/** Range -> [length in ms, interval, its length in ms]. */
export const RANGES = { "1d": [DAY, "5m", 300_000], "7d": [7 * DAY, "1h", 3_600_000], "30d": [30 * DAY, "1h", 3_600_000], "90d": [90 * DAY, "1d", DAY], "1y": [365 * DAY, "1d", DAY] };
// line -> [asset, basis]
const LINES = { coin: ["BTC", "coin"], fiat: ["BTC", "fiat"], usdt: ["USDT", "fiat"] };
const COLOURS = { coin: "--premium", fiat: "--kr", usdt: "--gl" };
const LIMIT = 1000;
const [RETRY_MS, AGAIN_MS] = [10_000, 300_000];
// the newest point of the lines moves at this interval
const LIVE_MS = 5000;

/** The head of the premium page. Args: now: gives the server's time in ms. */
export class PremiumTop {
  constructor(node, now) {
    this.node = node;
    this.now = now;
    // what the line above the chart says while nothing is under the cursor
    this.said = "";
    this.readout = node.querySelector(".readout");
    this.legend = node.querySelector(".legend");
    this.hidden = new Set();
    this.range = "1d";
    this.known = Object.fromEntries(Object.keys(LINES).map((name) => [name, false]));
    this.chart = createChart(node.querySelector(".canvas"), {
      autoSize: true,
      crosshair: { mode: CrosshairMode.Normal },
      rightPriceScale: { borderVisible: false, entireTextOnly: true, scaleMargins: { top: 0.1, bottom: 0.1 } },
      timeScale: { borderVisible: false, timeVisible: true, rightOffset: 2, allowShiftVisibleRangeOnWhitespaceReplacement: true, tickMarkFormatter: (time, kind) => mark(time, kind, false) },
      localization: { timeFormatter: moment },
    });
    const format = { type: "custom", minMove: 0.0001, formatter: share };
    this.series = Object.fromEntries(Object.keys(LINES).map((name) => [name, this.chart.addCustomSeries(new HoledLine(), { lineWidth: 1.75, priceFormat: format, priceLineVisible: false })]));
    this.chart.subscribeCrosshairMove((at) => this.#read(at));
    this.theme();
  }

  /** Apply the theme's colours. */
  theme() {
    const line = cssColour("--line");
    this.chart.applyOptions({
      layout: { background: { type: ColorType.Solid, color: "transparent" }, textColor: cssColour("--muted"), fontSize: 11.5 },
      grid: { vertLines: { color: `${line}55` }, horzLines: { color: `${line}88` } },
    });
    for (const [name, series] of Object.entries(this.series)) series.applyOptions({ color: cssColour(COLOURS[name]) });
  }

  /** Write the texts in the chosen language. */
  texts() {
    this.theme();
    this.legend.replaceChildren(...Object.entries(LINES).map(([name, [asset]]) => {
      const button = element("button", "", `${asset} ${t(name === "coin" ? "againstUsdt" : "againstUsd")}`);
      const colour = element("i");
      colour.style.setProperty("--c", `var(${COLOURS[name]})`);
      button.type = "button";
      button.prepend(colour);
      button.setAttribute("aria-pressed", String(!this.hidden.has(name)));
      button.addEventListener("click", () => {
        if (!this.hidden.delete(name)) this.hidden.add(name);
        this.series[name].applyOptions({ visible: !this.hidden.has(name) });
        button.setAttribute("aria-pressed", String(!this.hidden.has(name)));
      });
      return button;
    }));
  }

  /** Show the newest values. Args: btc: its row or undefined. usdt: as the API has it, or null. window: of the percentiles. */
  show(btc, usdt, window, old) {
    this.window = window;
    const stats = usdt?.stats;
    this.#headline("btc", {
      coin: btc?.coin ?? null, fiat: btc?.fiat ?? null, change: btc?.change ?? null, place: btc?.percentile ?? null, old: old || Boolean(btc?.old), ts: btc?.ts,
    });
    this.#headline("usdt", { fiat: number(usdt?.fiat), change: number(stats?.change_24h), place: number(stats?.[`percentile_${window}`]), price: usdt?.fx, old, ts: usdt?.ts });
    this.#live({ coin: btc?.coin, fiat: btc?.fiat, usdt: number(usdt?.fiat) }, old || btc?.old);
  }

  #headline(id, { coin, fiat, change, place, price: own, old, ts }) {
    const node = this.node.querySelector(`#headline-${id}`);
    // the basis that is known stands first; each number names its basis
    const bases = coin === undefined ? [["againstUsd", fiat]] : fiat === null ? [["againstUsdt", coin], ["againstUsd", fiat]] : [["againstUsd", fiat], ["againstUsdt", coin]];
    const [large, basis, second, more] = node.querySelectorAll("strong, .basis, .second, .more");
    write(large, percent(bases[0][1], 2, true));
    if (large.className !== sign(bases[0][1])) large.className = sign(bases[0][1]);
    write(basis, t(bases[0][0]));
    write(second, bases[1] ? `${t(bases[1][0])} ${percent(bases[1][1], 2, true)}` : fiat === null ? t("noUsd") : own ? `1 USDT = ${price(own, "KRW")}` : "");
    write(more, old && ts ? t("oldSince", { time: clock(ts) }) : `${t("change24")} ${points(change)} · ${t("percentile")}(${this.window}) ${place === null ? "–" : Math.round(place * 100)}`);
    node.classList.toggle("old", Boolean(old));
  }

  // the running point of each line
  #live(values, old) {
    if (old || performance.now() < (this.liveDue ?? 0) || !this.last) return;
    this.liveDue = performance.now() + LIVE_MS;
    const step = RANGES[this.range][2];
    const time = (Math.floor(this.now() / step) * step) / 1000;
    // what lies between the history and now is loaded, not drawn across
    if (time - this.last > step / 1000) { this.due = 0; return; }
    this.last = time;
    for (const [name, value] of Object.entries(values)) if (value !== null && value !== undefined) this.series[name].update({ time, value: value * 100 });
  }

  /** Load the history of a range. */
  async load(range = this.range) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const fresh = range !== this.range || !this.last;
    this.range = range;
    this.due = performance.now() + AGAIN_MS;
    const [length, interval, step] = RANGES[range];
    const end = Math.ceil((this.now() + 1) / step) * step;
    const found = await Promise.all(Object.entries(LINES).map(async ([name, [asset, basis]]) => [name, await candles(asset, basis, { interval, start: end - length, end, limit: LIMIT })]));
    if (turn !== this.turn) return;
    const failed = found.every(([, one]) => one === null);
    if (failed) { this.due = performance.now() + RETRY_MS; this.#say(t("noticeHistory")); if (!fresh) return; }
    for (const [name, all] of found) this.series[name].setData((all ?? []).map(({ ts, close }) => (number(close) === null ? { time: ts / 1000 } : { time: ts / 1000, value: +close * 100 })));
    this.last = (end - step) / 1000;
    const empty = found.every(([, one]) => !one?.some((each) => number(each.close) !== null));
    this.node.dataset.candles = String(Math.max(...found.map(([, one]) => one?.length ?? 0)));
    if (!failed) this.#say(empty ? t("noHistory") : "");
    if (fresh) this.chart.timeScale().fitContent();
  }

  #say(text) { this.said = text; write(this.readout, text); }

  /** Load again what is due. */
  beat() { if (performance.now() > (this.due ?? 0)) this.load(); }

  #read({ time, seriesData }) {
    const shown = Object.entries(LINES).map(([name, [asset]]) => [name, asset, seriesData.get(this.series[name])?.value]).filter(([, , value]) => value !== undefined);
    write(this.readout, time === undefined ? this.said : [moment(time), ...shown.map(([name, asset, value]) => `${asset} ${t(name === "coin" ? "againstUsdt" : "againstUsd")} ${share(value)}`)].join(" · "));
  }
}

// null = not available now
async function candles(asset, basis, query) {
  try {
    return (await get(`/v1/premium/${asset}/ohlc`, { ...query, basis })).candles;
  } catch { return null; }
}
