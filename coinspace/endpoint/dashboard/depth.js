// Cumulative size by distance from the middle, stacked by venue: who supplies the depth, and how far.

import { cssColour, price, size, venueCanvasColour } from "./format.js";

const AXIS = 20;

/** The chart on a canvas; `readout` is told what is under the pointer. */
export class DepthChart {
  constructor(canvas, readout) {
    this.canvas = canvas;
    this.readout = readout;
    this.book = null;
    this.pointer = null;
    this.drawn = 0;
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("pointermove", (event) => { this.pointer = event.offsetX; this.draw(); });
    canvas.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
  }

  /** Draw a book. */
  show(book) { this.book = book; this.draw(); }

  draw() {
    const { canvas, book } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.clearRect(0, 0, width, height);
    this.readout.textContent = "";
    if (!book || !book.bids.length || !book.asks.length) return;
    const middle = (+book.bids[0].price + +book.asks[0].price) / 2;
    const reach = Math.max(middle - +book.bids.at(-1).price, +book.asks.at(-1).price - middle);
    if (!(reach > 0)) return;
    const names = [...new Set([...book.bids, ...book.asks].flatMap((level) => level.venues.map((one) => one.venue)))].sort();
    const sides = [stack(book.bids, names), stack(book.asks, names)];
    const top = Math.max(sides[0].total, sides[1].total) * 1.06;
    const x = (value) => ((value - middle + reach) / (2 * reach)) * width;
    const y = (value) => (height - AXIS) * (1 - value / top);
    for (const side of sides) this.#areas(pen, side, names, x, y, middle, side === sides[0] ? x(middle - reach) : x(middle + reach));
    this.#axis(pen, width, height, middle, reach);
    if (this.pointer !== null) this.#point(pen, width, height, middle, reach, sides);
    this.drawn += 1;
    canvas.dataset.drawn = String(this.drawn);
  }

  // a stepped area per venue, each upon the one before
  #areas(pen, side, names, x, y, middle, edge) {
    const base = side.steps.map(() => 0);
    for (const name of names) {
      const colour = venueCanvasColour(name.split(":")[0]);
      const upper = side.steps.map((step, i) => base[i] + step.sums[name]);
      pen.beginPath();
      pen.moveTo(x(middle), y(0));
      trace(pen, side.steps, upper, x, y, middle, edge);
      for (let i = side.steps.length - 1; i >= 0; i -= 1) {
        const from = i === side.steps.length - 1 ? edge : x(side.steps[i + 1].price);
        pen.lineTo(from, y(base[i]));
        pen.lineTo(x(side.steps[i].price), y(base[i]));
      }
      pen.closePath();
      pen.globalAlpha = 0.42;
      pen.fillStyle = colour;
      pen.fill();
      pen.globalAlpha = 1;
      upper.forEach((value, i) => { base[i] = value; });
    }
    pen.beginPath();
    pen.moveTo(x(middle), y(0));
    trace(pen, side.steps, base, x, y, middle, edge);
    pen.strokeStyle = cssColour(side.steps[0].price < middle ? "--up" : "--down");
    pen.lineWidth = 1.6;
    pen.stroke();
  }

  #axis(pen, width, height, middle, reach) {
    pen.fillStyle = cssColour("--muted");
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "bottom";
    for (const part of [-0.9, -0.45, 0, 0.45, 0.9]) {
      const at = ((part + 1) / 2) * width;
      pen.textAlign = "center";
      pen.fillText(price(middle + part * reach), at, height - 2);
    }
    pen.strokeStyle = cssColour("--line");
    pen.beginPath();
    pen.moveTo(width / 2, 0);
    pen.lineTo(width / 2, height - AXIS);
    pen.stroke();
  }

  #point(pen, width, height, middle, reach, sides) {
    const at = middle + ((2 * this.pointer) / width - 1) * reach;
    const side = at < middle ? sides[0] : sides[1];
    const inside = side.steps.filter((step) => (at < middle ? step.price >= at : step.price <= at));
    pen.strokeStyle = cssColour("--muted");
    pen.setLineDash([3, 3]);
    pen.beginPath();
    pen.moveTo(this.pointer, 0);
    pen.lineTo(this.pointer, height - AXIS);
    pen.stroke();
    pen.setLineDash([]);
    const sums = inside.at(-1)?.sums ?? {};
    const parts = Object.entries(sums).filter(([, value]) => value > 0).map(([name, value]) => `${name.split(":")[0]} ${size(value)}`);
    this.readout.textContent = `${price(at)} · ${parts.join(" · ") || "0"}`;
  }
}

function stack(levels, names) {
  const sums = Object.fromEntries(names.map((name) => [name, 0]));
  const steps = [];
  let total = 0;
  for (const level of levels) {
    for (const one of level.venues) { sums[one.venue] += +one.size; total += +one.size; }
    steps.push({ price: +level.price, sums: { ...sums } });
  }
  return { steps, total };
}

function trace(pen, steps, values, x, y, middle, edge) {
  let before = 0;
  steps.forEach((step, i) => {
    const at = x(step.price);
    pen.lineTo(at, y(before));
    pen.lineTo(at, y(values[i]));
    before = values[i];
  });
  pen.lineTo(edge, y(before));
}
