// Index as line or candles with the regional lines, and the premium in a pane below.

import { CandlestickSeries, ColorType, CrosshairMode, LineStyle, createChart, customSeriesDefaultOptions } from "./lightweight-charts.js";
import { cssColour, decimals, price } from "./format.js";
import { t } from "./i18n.js";

const seconds = (ms) => Math.floor(ms / 1000);
const LINES = ["index", "kr", "gl", "premium"];
// live values kept: history lacks those that are not stored yet
const RECENT = 1500;
// steps without a live value above which history is loaded again
const HOLE_LIMIT = 300;

/** A line with holes: only points of neighbouring times are joined. */
export class HoledLine {
  renderer() { return this; }
  update(data, options) { this.data = data; this.options = options; }
  priceValueBuilder(point) { return [point.value]; }
  isWhitespace(point) { return point.value === undefined; }
  defaultOptions() { return { ...customSeriesDefaultOptions, lineWidth: 1 }; }

  draw(target, toY) {
    const { bars, visibleRange } = this.data;
    if (!visibleRange) return;
    target.useBitmapCoordinateSpace(({ context: pen, horizontalPixelRatio, verticalPixelRatio }) => {
      pen.strokeStyle = this.options.color;
      pen.lineWidth = this.options.lineWidth * verticalPixelRatio;
      pen.lineJoin = pen.lineCap = "round";
      pen.beginPath();
      let before = null;
      for (const { x, time, originalData: { value } } of bars.slice(Math.max(0, visibleRange.from - 1), visibleRange.to + 1)) {
        const [at, y] = [x * horizontalPixelRatio, toY(value) * verticalPixelRatio];
        // the short stroke makes a point between two holes visible
        if (before === null || time > before + 1) pen.moveTo(at - 0.5, y);
        pen.lineTo(at, y);
        before = time;
      }
      pen.stroke();
    });
  }
}

/** The chart; each series can be hidden. `readout` shows the values under the cursor. */
export class PriceChart {
  constructor(node, readout) {
    this.node = node;
    this.readout = readout;
    this.style = "line";
    this.hidden = new Set();
    this.interval = 1000;
    this.decimals = null;
    this.chart = createChart(node, {
      autoSize: true,
      crosshair: { mode: CrosshairMode.Normal },
      rightPriceScale: { borderVisible: false, entireTextOnly: true, scaleMargins: { top: 0.08, bottom: 0.08 } },
      timeScale: { borderVisible: false, timeVisible: true, secondsVisible: true, rightOffset: 4, maxBarSpacing: 24, allowShiftVisibleRangeOnWhitespaceReplacement: true },
      localization: { timeFormatter: moment },
    });
    this.chart.applyOptions({ timeScale: { tickMarkFormatter: (time, kind) => mark(time, kind, this.interval < 60_000) } });
    this.#make();
    this.clear();
    this.theme();
    this.chart.subscribeCrosshairMove((at) => this.#read(at));
  }

  #make() {
    const line = (options, pane = 0) => this.chart.addCustomSeries(new HoledLine(), options, pane);
    const quiet = { lastValueVisible: false, priceLineVisible: false };
    const format = { type: "custom", minMove: 0.01, formatter: (shown) => price(shown) };
    this.series = {
      candles: this.chart.addSeries(CandlestickSeries, { borderVisible: false, priceLineVisible: true, priceFormat: format }),
      index: line({ lineWidth: 2, priceLineStyle: LineStyle.Dotted, priceFormat: format }),
      kr: line({ priceFormat: format, ...quiet }),
      gl: line({ priceFormat: format, ...quiet }),
      premium: line({ lineWidth: 1.5, priceFormat: { type: "custom", minMove: 0.0001, formatter: share } }, 1),
    };
    this.series.premium.priceScale().applyOptions({ entireTextOnly: true });
    this.chart.panes()[1]?.setHeight(92);
  }

  /** Apply the theme's colours. */
  theme() {
    const line = cssColour("--line");
    this.chart.applyOptions({
      layout: { background: { type: ColorType.Solid, color: "transparent" }, textColor: cssColour("--muted"), fontSize: 11.5, panes: { separatorColor: line } },
      grid: { vertLines: { color: `${line}55` }, horzLines: { color: `${line}88` } },
    });
    const [up, down] = [cssColour("--up"), cssColour("--down")];
    this.series.candles.applyOptions({ upColor: up, downColor: down, wickUpColor: up, wickDownColor: down });
    for (const name of LINES) this.series[name].applyOptions({ color: cssColour(`--${name}`) });
    this.#visibility();
  }

  /** Show "line" or "candles". */
  setStyle(style) { this.style = style; this.#visibility(); }

  /** Hide or show one series. */
  toggle(name) {
    if (this.hidden.has(name)) this.hidden.delete(name); else this.hidden.add(name);
    this.#visibility();
    return !this.hidden.has(name);
  }

  #visibility() {
    for (const [name, series] of Object.entries(this.series)) {
      const other = this.style === "candles" ? "index" : "candles";
      series.applyOptions({ visible: name !== other && !this.hidden.has(name === "candles" ? "index" : name) });
    }
  }

  // labels and steps of the axis depend on the size of the price
  #fit(value) {
    const digits = decimals(value);
    if (digits === this.decimals) return;
    this.decimals = digits;
    const format = { type: "custom", minMove: 10 ** -digits, formatter: (shown) => price(shown, "", digits) };
    for (const name of ["candles", "index", "kr", "gl"]) this.series[name].applyOptions({ priceFormat: format });
  }

  /** Remove everything, for another asset. */
  clear() {
    this.recent = [];
    this.load([], this.interval);
  }

  /** Replace all data by candles of the API, followed by the live values after them. */
  load(candles, intervalMs, fit = true) {
    this.interval = intervalMs;
    this.candle = null;
    this.last = 0;
    const known = candles.findLast((one) => one.close !== null);
    if (known) this.#fit(+known.close);
    const points = { candles: [], index: [], kr: [], gl: [], premium: [] };
    for (const one of candles) {
      const time = seconds(one.ts);
      this.last = Math.max(this.last, time);
      const whole = one.close !== null;
      points.candles.push(whole ? { time, open: +one.open, high: +one.high, low: +one.low, close: +one.close } : { time });
      for (const [name, value] of Object.entries(values(one.close, one.kr, one.gl, one.premium, one.fx))) points[name].push(point(time, value));
    }
    const newest = points.candles.at(-1);
    if (newest?.close !== undefined) this.candle = newest;
    for (const [name, data] of Object.entries(points)) this.series[name].setData(data);
    this.recent.forEach((one) => this.#add(one));
    this.chart.applyOptions({ timeScale: { secondsVisible: intervalMs < 60_000 } });
    if (fit) this.chart.timeScale().fitContent();
  }

  /** Add a live value to its candle; return whether history must be loaded again, for a long hole. */
  update(one) {
    this.recent.push(one);
    if (this.recent.length > RECENT) this.recent.shift();
    if (this.last && one.ts - this.last * 1000 > HOLE_LIMIT * this.interval) return true;
    this.#add(one);
    return false;
  }

  #add(one) {
    const step = this.interval / 1000;
    const time = seconds(Math.floor(one.ts / this.interval) * this.interval);
    if (time < this.last) return;
    const points = Object.entries(values(one.value, one.kr?.value, one.gl?.value, one.premium?.coin, one.fx)).filter(([, value]) => value !== null);
    // a hole is as wide as its time
    for (let hole = this.last ? this.last + step : time; hole < time || (hole === time && !points.length); hole += step) this.series.index.update({ time: hole });
    this.last = time;
    for (const [name, value] of points) this.series[name].update({ time, value });
    if (one.value === null) return;
    const value = +one.value;
    this.#fit(value);
    if (this.candle?.time !== time) this.candle = { time, open: value, high: value, low: value, close: value };
    this.candle.high = Math.max(this.candle.high, value);
    this.candle.low = Math.min(this.candle.low, value);
    this.candle.close = value;
    this.series.candles.update(this.candle);
  }

  #read({ time, seriesData }) {
    const shown = [];
    const candle = seriesData.get(this.series.candles);
    const value = (name) => seriesData.get(this.series[name])?.value;
    const digits = this.decimals ?? 2;
    if (this.style === "candles" && candle?.close !== undefined) for (const name of ["open", "high", "low", "close"]) shown.push([t(`${name}Price`), price(candle[name], "", digits)]);
    if (this.style === "line" && value("index") !== undefined) shown.push([t("indexLine"), price(value("index"), "", digits)]);
    for (const name of ["kr", "gl"]) if (value(name) !== undefined) shown.push([t(name), price(value(name), "", digits)]);
    if (value("premium") !== undefined) shown.push([t("premium"), share(value("premium"))]);
    this.readout.textContent = time === undefined ? "" : [moment(time), ...shown.map((one) => one.join(" "))].join(" · ");
  }
}

const point = (time, value) => (value === null ? { time } : { time, value });
/** A premium in percent. */
export const share = (value) => `${value.toFixed(3)}%`;
/** A time of the axis in words. */
export const moment = (time) => new Date(time * 1000).toLocaleString("sv-SE");

// what the lines show: Korea in the index's currency, the premium in percent; null = a hole
function values(index, kr, gl, premium, fx) {
  const number = (text) => (text === null || text === undefined ? null : +text);
  return { index: number(index), kr: number(kr) !== null && +fx > 0 ? +kr / +fx : null, gl: number(gl), premium: number(premium) === null ? null : +premium * 100 };
}

/** A label of the time axis. Kinds: 0 year, 1 month, 2 day, 3 time, 4 time with seconds. */
export function mark(time, kind, fine) {
  const date = new Date(time * 1000);
  if (kind === 0) return String(date.getFullYear());
  if (kind === 1 || kind === 2) return date.toLocaleDateString("sv-SE").slice(5);
  return date.toLocaleTimeString("en-GB", { hour12: false }).slice(0, fine ? 8 : 5);
}
