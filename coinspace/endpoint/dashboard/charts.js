// Index as line or candles with the regional lines, and the premium in a pane below.

import { CandlestickSeries, ColorType, CrosshairMode, LineSeries, LineStyle, createChart } from "./lightweight-charts.js";
import { cssColour, decimals, price } from "./format.js";

const seconds = (ms) => Math.floor(ms / 1000);
const candle = (one) => ({ time: seconds(one.ts), open: +one.open, high: +one.high, low: +one.low, close: +one.close });

/** The chart; each series can be hidden. */
export class PriceChart {
  constructor(node) {
    this.node = node;
    this.style = "line";
    this.hidden = new Set();
    this.interval = 1000;
    this.candle = null;
    this.decimals = null;
    this.chart = createChart(node, {
      autoSize: true,
      crosshair: { mode: CrosshairMode.Normal },
      rightPriceScale: { borderVisible: false, scaleMargins: { top: 0.08, bottom: 0.08 } },
      timeScale: { borderVisible: false, timeVisible: true, secondsVisible: true, rightOffset: 4 },
      localization: { timeFormatter: (time) => new Date(time * 1000).toLocaleString("sv-SE") },
    });
    this.chart.applyOptions({ timeScale: { tickMarkFormatter: (time, kind) => mark(time, kind) } });
    this.#make();
    this.theme();
  }

  #make() {
    const quiet = { lastValueVisible: false, priceLineVisible: false, crosshairMarkerRadius: 3 };
    this.series = {
      candles: this.chart.addSeries(CandlestickSeries, { borderVisible: false, priceLineVisible: true }),
      index: this.chart.addSeries(LineSeries, { lineWidth: 2, priceLineStyle: LineStyle.Dotted }),
      kr: this.chart.addSeries(LineSeries, { lineWidth: 1, ...quiet }),
      gl: this.chart.addSeries(LineSeries, { lineWidth: 1, ...quiet }),
      premium: this.chart.addSeries(LineSeries, { lineWidth: 1.5, priceFormat: { type: "custom", minMove: 0.0001, formatter: (value) => `${value.toFixed(3)}%` } }, 1),
    };
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
    this.series.index.applyOptions({ color: cssColour("--accent") });
    for (const name of ["kr", "gl", "premium"]) this.series[name].applyOptions({ color: cssColour(`--${name}`) });
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
    this.series.candles.applyOptions({ visible: this.style === "candles" });
    this.series.index.applyOptions({ visible: this.style === "line" });
    for (const name of ["kr", "gl", "premium"]) this.series[name].applyOptions({ visible: !this.hidden.has(name) });
  }

  // labels and steps of the axis depend on the size of the price
  #fit(value) {
    const digits = decimals(value);
    if (digits === this.decimals) return;
    this.decimals = digits;
    const format = { type: "custom", minMove: 10 ** -digits, formatter: (shown) => price(shown) };
    for (const name of ["candles", "index", "kr", "gl"]) this.series[name].applyOptions({ priceFormat: format });
  }

  /** Replace all data by candles of the API; the line is interrupted at a null candle. */
  load(candles, intervalMs) {
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
      points.candles.push(whole ? candle(one) : { time });
      points.index.push(whole ? { time, value: +one.close } : { time });
      points.kr.push(one.kr !== null && one.fx !== null ? { time, value: +one.kr / +one.fx } : { time });
      points.gl.push(one.gl !== null ? { time, value: +one.gl } : { time });
      points.premium.push(one.premium !== null ? { time, value: +one.premium * 100 } : { time });
    }
    const newest = candles.at(-1);
    if (newest && newest.close !== null) this.candle = candle(newest);
    for (const [name, data] of Object.entries(points)) this.series[name].setData(data);
    this.chart.applyOptions({ timeScale: { secondsVisible: intervalMs < 60_000 } });
    this.chart.timeScale().fitContent();
  }

  /** Add a live value to its candle. */
  update(one) {
    const time = seconds(Math.floor(one.ts / this.interval) * this.interval);
    if (time < this.last) return;
    this.last = time;
    if (one.value !== null) {
      const value = +one.value;
      this.#fit(value);
      if (!this.candle || this.candle.time !== time) this.candle = { time, open: value, high: value, low: value, close: value };
      this.candle.high = Math.max(this.candle.high, value);
      this.candle.low = Math.min(this.candle.low, value);
      this.candle.close = value;
      this.series.candles.update(this.candle);
      this.series.index.update({ time, value });
    }
    const fx = one.fx === null ? null : +one.fx;
    if (one.kr?.value && fx) this.series.kr.update({ time, value: +one.kr.value / fx });
    if (one.gl?.value) this.series.gl.update({ time, value: +one.gl.value });
    if (one.premium?.coin) this.series.premium.update({ time, value: +one.premium.coin * 100 });
  }
}

// kinds: 0 year, 1 month, 2 day, 3 time, 4 time with seconds
function mark(time, kind) {
  const date = new Date(time * 1000);
  if (kind === 0) return String(date.getFullYear());
  if (kind === 1 || kind === 2) return date.toLocaleDateString("sv-SE").slice(5);
  return date.toLocaleTimeString("en-GB", { hour12: false }).slice(0, kind === 4 ? 8 : 5);
}
