// The summed book as a ladder: each level's bar shows the venues' parts of the size.

import { price, size, venueColour } from "./format.js";
import { t } from "./i18n.js";

const ROWS = 15;

/** The ladder; rows are made once and refilled for each book. */
export class Ladder {
  constructor(node, legend) {
    this.node = node;
    this.legend = legend;
    node.className = "book";
    this.head = element("div", "row head");
    this.asks = Array.from({ length: ROWS }, () => row("ask"));
    this.spread = element("div", "spread");
    this.bids = Array.from({ length: ROWS }, () => row("bid"));
    node.append(this.head, ...this.asks.map((one) => one.node), this.spread, ...this.bids.map((one) => one.node));
    this.texts();
  }

  /** Write the column names in the chosen language. */
  texts() {
    this.head.replaceChildren(...["price", "size", "total"].map((key) => element("span", "", t(key))));
  }

  /** Show a book. */
  show(book) {
    const asks = book.asks.slice(0, ROWS);
    const bids = book.bids.slice(0, ROWS);
    const most = Math.max(...cumulative(asks), ...cumulative(bids), 1e-12);
    // the best ask stands next to the spread
    fill(this.asks.slice().reverse(), asks, most);
    fill(this.bids, bids, most);
    showLegend(this.legend, book);
    if (asks.length && bids.length) {
      const [bid, ask] = [+bids[0].price, +asks[0].price];
      const middle = (bid + ask) / 2;
      this.spread.replaceChildren(element("b", "", price(middle)), element("span", "", `${ask >= bid ? "" : "↔ "}${(((ask - bid) / middle) * 100).toFixed(4)}%`));
    } else {
      this.spread.replaceChildren(element("span", "", t("waiting")));
    }
  }
}

/** Show the colours and names of a book's exchanges. */
export function showLegend(node, book) {
  const names = [...new Set(book.venues.map((one) => one.exchange))];
  if (node.dataset.names === names.join()) return;
  node.dataset.names = names.join();
  node.replaceChildren(...names.map((exchange) => {
    const entry = element("span", "", exchange);
    const mark = element("i", "");
    mark.style.setProperty("--c", venueColour(exchange));
    entry.prepend(mark);
    return entry;
  }));
}

/** An element with a class and text. */
export function element(tag, name = "", text = "") {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text) node.textContent = text;
  return node;
}

function row(side) {
  const node = element("div", `row ${side}`);
  const parts = { node, fill: element("div", "fill"), price: element("span", "price"), size: element("span"), total: element("span") };
  node.append(parts.fill, parts.price, parts.size, parts.total);
  return parts;
}

function cumulative(levels) {
  let total = 0;
  return levels.map((level) => (total += +level.size));
}

function fill(rows, levels, most) {
  const totals = cumulative(levels);
  rows.forEach((one, i) => {
    const level = levels[i];
    one.node.style.visibility = level ? "visible" : "hidden";
    if (!level) return;
    one.price.textContent = price(level.price);
    one.size.textContent = size(level.size);
    one.total.textContent = size(totals[i]);
    one.fill.style.width = `${(totals[i] / most) * 100}%`;
    const bars = level.venues.map((venue) => {
      const bar = document.createElement("i");
      bar.style.width = `${(+venue.size / +level.size) * 100}%`;
      bar.style.background = venueColour(venue.venue.split(":")[0]);
      return bar;
    });
    one.fill.replaceChildren(...bars);
    one.node.title = level.venues.map((venue) => `${venue.venue} ${venue.size}`).join("\n");
  });
}
