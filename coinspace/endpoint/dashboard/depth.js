// Cumulative size by distance from the mid price, stacked by venue.

import { cssColour, price, size, venueCanvasColour } from "./format.js";

const AXIS = 20;
// largest distances from the mid price that the chart can show, in percent
export const REACHES = ["0.25", "0.5", "1"];

/** The chart on a canvas; `readout` shows the values under the pointer. */
export class DepthChart {
  constructor(canvas, readout) {
    this.canvas = canvas;
    this.readout = readout;
    this.profile = null;
    this.pointer = null;
    this.drawn = 0;
    this.reach = 1;
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("pointermove", (event) => { this.pointer = event.offsetX; this.draw(); });
    canvas.addEventListener("pointerleave", () => { this.pointer = null; this.draw(); });
  }

  /** Draw a book's profile. */
  show(profile) { this.profile = profile; this.draw(); }

  /** Set the largest distance from the mid price, in percent. */
  setReach(percent) { this.reach = percent; this.draw(); }

  // the part of the profile within reach
  #within() {
    const { profile } = this;
    const steps = Math.round(this.reach / +profile.step_percent) + 1;
    const cut = (side) => Object.fromEntries(Object.entries(side).map(([name, values]) => [name, values.slice(0, steps)]));
    return { ...profile, bids: cut(profile.bids), asks: cut(profile.asks) };
  }

  draw() {
    const { canvas } = this;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    this.readout.textContent = "";
    if (!this.profile) return;
    const profile = this.#within();
    const names = Object.keys(profile.bids).sort();
    const steps = profile.bids[names[0]].length;
    const sides = [stack(profile.bids, names, steps), stack(profile.asks, names, steps)];
    const top = Math.max(sides[0].at(-1).at(-1), sides[1].at(-1).at(-1)) * 1.08;
    if (!(top > 0)) return;
    const half = width / 2;
    const y = (value) => (height - AXIS) * (1 - value / top);
    this.#grid(pen, width, height, profile, steps);
    sides.forEach((side, number) => {
      const x = (step) => half + (number ? 1 : -1) * (step / (steps - 1)) * half;
      names.forEach((name, i) => {
        area(pen, side[i], i ? side[i - 1] : null, x, y);
        pen.fillStyle = venueCanvasColour(name.split(":")[0]);
        pen.globalAlpha = 0.62;
        pen.fill();
        pen.globalAlpha = 1;
      });
      pen.beginPath();
      trace(pen, side.at(-1), x, y);
      pen.strokeStyle = cssColour(number ? "--down" : "--up");
      pen.lineWidth = 1.8;
      pen.stroke();
    });
    this.#sizes(pen, width, top, y);
    if (this.pointer !== null) this.#point(pen, width, height, profile, names, steps);
    this.drawn += 1;
    canvas.dataset.drawn = String(this.drawn);
  }

  #grid(pen, width, height, profile, steps) {
    const reach = ((steps - 1) * +profile.step_percent) / 100;
    pen.font = "11px system-ui, sans-serif";
    pen.textBaseline = "bottom";
    pen.textAlign = "center";
    for (const part of [-0.9, -0.6, -0.3, 0, 0.3, 0.6, 0.9]) {
      const at = Math.round(((part + 1) / 2) * width) + 0.5;
      pen.strokeStyle = cssColour("--line");
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(at, 0);
      pen.lineTo(at, height - AXIS);
      pen.stroke();
      if (width < 500 && part !== 0 && Math.abs(part) !== 0.6) continue;
      pen.fillStyle = cssColour("--muted");
      pen.fillText(part === 0 ? price(profile.mid) : `${part > 0 ? "+" : "−"}${(Math.abs(part) * reach * 100).toFixed(reach < 0.01 ? 2 : 1)}%`, at, height - 2);
    }
  }

  #sizes(pen, width, top, y) {
    const step = 10 ** Math.floor(Math.log10(top));
    const unit = top / step >= 4 ? 2 * step : top / step >= 2 ? step : step / 2;
    pen.textAlign = "right";
    pen.textBaseline = "bottom";
    pen.lineWidth = 1;
    pen.strokeStyle = `${cssColour("--muted")}33`;
    pen.fillStyle = cssColour("--text");
    for (let value = unit; value < top * 0.95; value += unit) {
      const at = Math.round(y(value)) + 0.5;
      pen.beginPath();
      pen.moveTo(0, at);
      pen.lineTo(width, at);
      pen.stroke();
      pen.fillText(size(value), width - 2, at - 2);
    }
  }

  #point(pen, width, height, profile, names, steps) {
    const away = (2 * this.pointer) / width - 1;
    const step = Math.min(steps - 1, Math.round(Math.abs(away) * (steps - 1)));
    const side = away < 0 ? profile.bids : profile.asks;
    pen.strokeStyle = cssColour("--muted");
    pen.setLineDash([3, 3]);
    pen.beginPath();
    pen.moveTo(this.pointer, 0);
    pen.lineTo(this.pointer, height - AXIS);
    pen.stroke();
    pen.setLineDash([]);
    const at = +profile.mid * (1 + Math.sign(away) * ((step * +profile.step_percent) / 100));
    const parts = names.map((name) => `${name.split(":")[0]} ${size(side[name][step])}`);
    this.readout.textContent = `${price(at)} · ${parts.join(" · ")}`;
  }
}

// per venue its cumulative sizes plus those of the venues before it
function stack(side, names, steps) {
  const below = new Array(steps).fill(0);
  return names.map((name) => side[name].map((value, i) => (below[i] += value)));
}

function trace(pen, values, x, y) {
  pen.moveTo(x(0), y(0));
  values.forEach((value, i) => {
    if (i) pen.lineTo(x(i), y(values[i - 1]));
    pen.lineTo(x(i), y(value));
  });
}

function area(pen, upper, lower, x, y) {
  pen.beginPath();
  trace(pen, upper, x, y);
  for (let i = upper.length - 1; i >= 0; i -= 1) {
    pen.lineTo(x(i), y(lower ? lower[i] : 0));
    if (i) pen.lineTo(x(i), y(lower ? lower[i - 1] : 0));
  }
  pen.closePath();
}
