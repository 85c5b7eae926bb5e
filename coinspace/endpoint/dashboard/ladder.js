// The summed book as a ladder: each level's bar shows the venues' parts of the size.

import { columnDecimals, columnSize, price, venueColour } from "./format.js";
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
    const sizes = Math.max(...[...asks, ...bids].map((one) => +one.size), 1e-12);
    // decimals only grow while an asset is shown: columns must not change with every book
    if (this.asset !== book.asset) [this.asset, this.digits] = [book.asset, 0];
    this.digits = Math.max(this.digits, columnDecimals([...bids, ...asks].map((one) => one.price)));
    const format = { price: (text) => price(text, "", this.digits), size: columnSize(sizes), total: columnSize(most) };
    // the best ask stands next to the spread
    fill(this.asks.slice().reverse(), asks, most, format);
    fill(this.bids, bids, most, format);
    showLegend(this.legend, book);
    if (asks.length && bids.length) {
      const [bid, ask] = [+bids[0].price, +asks[0].price];
      const middle = (bid + ask) / 2;
      this.spread.replaceChildren(element("b", "", price(middle, "", this.digits)), element("span", "", `${ask >= bid ? "" : "↔ "}${(((ask - bid) / middle) * 100).toFixed(4)}%`));
    } else {
      this.spread.replaceChildren(element("span", "", t("waiting")));
    }
  }
}

/** Show the colours and names of a book's exchanges, and where their price groups begin. */
export function showLegend(node, book) {
  const names = [...new Set(book.venues.map((one) => one.exchange))].map((exchange) => {
    const from = book.venues.filter((one) => one.exchange === exchange && one.grouped_from).map((one) => +one.grouped_from);
    return [exchange, from.length ? ` ~ ${(Math.min(...from) * 100).toFixed(1)}%` : ""];
  });
  if (node.dataset.names === names.join()) return;
  node.dataset.names = names.join();
  node.replaceChildren(...names.map(([exchange, groups]) => {
    const entry = element("span", "", exchange + groups);
    if (groups) entry.title = t("groups");
    const mark = element("i", "");
    mark.style.setProperty("--c", venueColour(exchange));
    entry.prepend(mark);
    return entry;
  }));
}

/** Replace a node's text if it differs: an unchanged text is neither drawn nor read aloud again. */
export function write(node, text) { if (node.textContent !== text) node.textContent = text; }

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

function fill(rows, levels, most, format) {
  const totals = cumulative(levels);
  rows.forEach((one, i) => {
    const level = levels[i];
    one.node.style.visibility = level ? "visible" : "hidden";
    if (!level) return;
    one.price.textContent = format.price(level.price);
    // a sum over a range of prices
    const grouped = level.venues.some((venue) => venue.grouped);
    one.size.textContent = (grouped ? "~" : "") + format.size(level.size);
    one.total.textContent = format.total(totals[i]);
    // scaled, not resized: the browser lays nothing out again
    one.fill.style.transform = `scaleX(${totals[i] / most})`;
    one.fill.style.background = stripes(level);
    one.node.title = level.venues.map((venue) => `${venue.venue} ${venue.grouped ? "~" : ""}${venue.size}`).join("\n");
  });
}

// the venues' parts of a level, as stripes from the right
function stripes(level) {
  let from = 0;
  const parts = level.venues.map((venue) => {
    const to = from + (+venue.size / +level.size) * 100;
    const stripe = `${venueColour(venue.venue.split(":")[0])} ${from}% ${to}%`;
    from = to;
    return stripe;
  });
  return `linear-gradient(to left, ${parts.join(", ")})`;
}
