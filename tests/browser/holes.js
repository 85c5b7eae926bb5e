// Draws 100 seconds of which 40 have no value, and counts the coloured pixels of the chart before, in
// and after them. STYLE: "line" or "candles". LIVE: "" = all from history, "nulls" = live records
// without a value, "silence" = no live records.
const node = document.body.appendChild(document.createElement("div"));
node.style.cssText = "position:fixed;inset:0;width:900px;height:500px";
const chart = new m.PriceChart(node, document.createElement("p"));
const name = STYLE;
chart.setStyle(name);
// the line of the last price crosses the whole chart
for (const one of Object.values(chart.series)) one.applyOptions({ priceLineVisible: false });
const start = 1790000000000, none = null;
const row = (i) => {
  const value = i >= 30 && i < 70 ? none : String(100 + (i % 5));
  return { ts: start + 1000 * i, open: value, high: value, low: value, close: value, kr: value && "150000", gl: value, premium: value && "0.01", fx: value && "1400" };
};
const live = (one) => ({ ts: one.ts, value: one.close, kr: { value: one.kr }, gl: { value: one.gl }, premium: { coin: one.premium }, fx: one.fx });
const rows = Array.from({ length: 100 }, (_, i) => row(i));
if (LIVE) {
  chart.load(rows.slice(0, 20), 1000);
  // the records of the hole, or nothing at all
  for (const one of rows.slice(20)) if (LIVE === "nulls" || one.close !== null) chart.update(live(one));
  chart.chart.timeScale().fitContent();
} else chart.load(rows, 1000);
requestAnimationFrame(() => requestAnimationFrame(() => {
  const time = chart.chart.timeScale();
  const at = (i) => time.timeToCoordinate(start / 1000 + i);
  const whole = chart.chart.takeScreenshot();
  const pen = whole.getContext("2d");
  // colourful pixels: the grid is grey
  const ink = (from, to) => {
    const [x, width] = [Math.round(at(from)), Math.round(at(to) - at(from))];
    const data = pen.getImageData(x, 0, width, 460).data;
    let count = 0;
    for (let i = 0; i < data.length; i += 4) {
      const [r, g, b, a] = data.slice(i, i + 4);
      count += a > 60 && Math.max(r, g, b) - Math.min(r, g, b) > 70;
    }
    return count;
  };
  const values = Object.fromEntries(["kr", "premium"].map((key) => [key, chart.series[key].data().filter((one) => one.value !== undefined).length]));
  const found = { hole: ink(32, 67), before: ink(2, 27), after: ink(73, 97), values };
  // the newest value stays in view
  for (let i = 100; i < 120; i += 1) chart.update(live(row(i)));
  requestAnimationFrame(() => {
    found.follows = time.getVisibleLogicalRange().to;
    chart.chart.remove();
    node.remove();
    done(found);
  });
}));
