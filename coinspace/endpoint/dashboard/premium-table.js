// The table of all premiums. A row is a place: assets change places, rows do not move.

import { sign } from "./assets.js";
import { isFavourite, toggleFavourite } from "./favourites.js";
import { age, money, outside, percent, price } from "./format.js";
import { currentLanguage, t, walletText } from "./i18n.js";
import { element, write } from "./ladder.js";
import { sparkPath } from "./sparkline.js";

// an order by numbers is made anew at this interval, and not under the pointer or the focus
const ORDER_MS = 5000;
// after a touch or a turn of the wheel the order rests for this long
const REST_MS = 3000;
// rows beyond the edge of the screen that are drawn too
const MARGIN = 6;

// [name, key of its heading, the number or text by which the column sorts; null = not sortable]
const COLUMNS = [
  ["asset", "asset", (row) => row.asset],
  ["coin", "againstUsdt", (row) => row.coin],
  ["fiat", "againstUsd", (row) => row.fiat],
  ["hour", "change1", (row) => row.hour],
  ["change", "change24", (row) => row.change],
  ["spark", "spark24", null],
  ["place", "percentile", (row) => row.percentile],
  ["pair", "venuePair", null],
  ["trade", "executable", (row) => row.trade?.result ?? null],
  ["capacity", "capacity", (row) => row.capacity],
  ["wallets", "wallets", null],
  ["kr", "krPrice", (row) => row.kr],
  ["age", "age", (row) => (row.old ? row.age : row.age === null ? null : 0)],
];
const RISING = new Set(["asset", "age"]);

/**
 * The table; `open` is called with the asset of a chosen row, `sparks` gives the points of an
 * asset's line or asks for them.
 */
export class PremiumTable {
  constructor(node, { open, sparks }) {
    this.node = node;
    this.table = node.querySelector("table");
    this.search = node.querySelector("input[type=search]");
    this.none = node.querySelector(".empty");
    this.open = open;
    this.sparks = sparks;
    this.rows = new Map();
    this.order = [];
    this.by = { column: "coin", up: false };
    this.only = false;
    // of the trades in the rows, in KRW
    this.size = 1e7;
    this.search.addEventListener("input", () => this.arrange());
    this.search.addEventListener("keydown", (event) => { if (event.key === "Enter" && this.order.length) open(this.order[0]); });
    this.table.addEventListener("click", (event) => this.#click(event.target));
    for (const kind of ["pointerdown", "wheel", "touchmove"]) node.addEventListener(kind, () => { this.rest = performance.now() + REST_MS; }, { passive: true });
    document.addEventListener("scroll", () => this.#later(), { passive: true });
    this.texts();
  }

  /** Write the headings in the chosen language. */
  texts() {
    this.search.placeholder = t("searchAssets");
    const tr = document.createElement("tr");
    tr.setAttribute("role", "row");
    tr.append(element("th", "c-star"));
    const values = { money: krw(this.size) };
    for (const [name, key, by] of COLUMNS) {
      const th = element("th", `c-${name}`);
      const heading = element(by ? "button" : "span", "", t(key, values));
      if (by) { heading.type = "button"; heading.dataset.column = name; }
      const title = t(`${key}Title`, values);
      heading.title = title === `${key}Title` ? "" : title;
      th.setAttribute("role", "columnheader");
      th.append(heading);
      tr.append(th);
    }
    this.table.tHead.replaceChildren(tr);
    this.#marks();
    if (this.rows.size) this.arrange();
  }

  /** Show these rows. Args: rows: asset -> row as of `premiumRow`. */
  show(rows) {
    const changed = rows.size !== this.shown || !this.order.length;
    [this.rows, this.shown] = [rows, rows.size];
    const size = [...rows.values()].find((row) => row.trade?.size)?.trade.size ?? this.size;
    if (size !== this.size) { this.size = size; this.texts(); }
    if (changed || (this.#moves() && !this.#held() && performance.now() >= this.due)) this.arrange();
    else this.draw();
  }

  /** Show only the favourites, or all. */
  favouritesOnly(only) { this.only = only; this.arrange(); }

  #moves() { return this.by.column !== "asset"; }

  #held() {
    return performance.now() < (this.rest ?? 0) || this.table.tBodies[0].matches(":hover, :has(:focus-visible)");
  }

  /** Put every asset into its place again. */
  arrange() {
    this.due = performance.now() + ORDER_MS;
    const wanted = this.search.value.trim().toUpperCase();
    const { column, up } = this.by;
    const key = COLUMNS.find(([name]) => name === column)[2];
    // favourites first; then what has a number; what may be another coin has no rank
    const group = (row) => (row.same ? (key(row) === null ? 2 : 0) : 4) - Number(isFavourite(row.asset));
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === y || x === null || y === null) return a.asset < b.asset ? -1 : 1;
      return (x < y ? -1 : 1) * (up ? 1 : -1);
    };
    this.order = [...this.rows.values()]
      .filter((row) => row.asset.toUpperCase().includes(wanted) && (!this.only || isFavourite(row.asset)))
      .map((row) => ({ row, favourite: isFavourite(row.asset), group: group(row) }))
      .sort((a, b) => b.favourite - a.favourite || a.group - b.group || compare(a.row, b.row))
      .map((one) => one.row.asset);
    write(this.none, t(this.only && !wanted ? "noMarks" : "noAssets"));
    this.none.hidden = this.order.length > 0 || !this.rows.size;
    this.draw(true);
  }

  #later() {
    if (this.drawing || this.node.offsetParent === null) return;
    this.drawing = true;
    requestAnimationFrame(() => { this.drawing = false; this.draw(); });
  }

  /** Write the rows that can be seen, or all. */
  draw(all = false) {
    const body = this.table.tBodies[0];
    while (body.rows.length > this.order.length) body.lastElementChild.remove();
    while (body.rows.length < this.order.length) body.append(place());
    if (!this.order.length) return;
    const height = body.rows[0].offsetHeight || 40;
    const above = -body.getBoundingClientRect().top;
    const [first, last] = [Math.floor(above / height) - MARGIN, Math.ceil((above + innerHeight) / height) + MARGIN];
    this.order.forEach((asset, i) => {
      const tr = body.rows[i];
      const seen = i >= first && i <= last;
      if (all && tr.dataset.asset !== asset) { tr.dataset.asset = asset; if (!seen) write(tr.cells[1].firstElementChild.firstElementChild, asset); }
      if (seen) this.#fill(tr, this.rows.get(asset));
    });
  }

  #fill(tr, row) {
    if (!row) return;
    const [star, name, coin, fiat, hour, change, spark, percentile, pair, trade, capacity, wallets, kr, old] = tr.cells;
    const ranked = row.same && !row.old;
    classes(tr, row.same ? (row.old ? "old" : "") : "doubt");
    attribute(star.firstElementChild, "aria-pressed", String(isFavourite(row.asset)));
    attribute(star.firstElementChild, "aria-label", t("favourite", { asset: row.asset }));
    write(name.firstElementChild.firstElementChild, row.asset);
    this.#badge(name.firstElementChild.lastElementChild, row);
    number(coin, percent(row.coin, 2, true), row.coin);
    number(fiat, percent(row.fiat, 2, true), row.fiat);
    number(hour, points(row.hour), row.hour);
    number(change, points(row.change), row.change);
    this.#spark(spark, row);
    meter(percentile, ranked ? row.percentile : null);
    write(pair, row.trade ? pairText(row.trade) : "–");
    attribute(pair, "title", row.trade ? `${t(`way_${row.trade.way}`)}: ${outside(row.trade.buy)} → ${outside(row.trade.sell)}` : "");
    number(trade, row.trade ? percent(row.trade.result, 2, true) : "–", row.trade?.result);
    write(capacity, row.capacity === 0 ? t("none") : `${row.whole ? "≥ " : ""}${krw(row.capacity)}`);
    write(wallets, row.wallet ? walletText(row.wallet) : "–");
    write(kr, price(row.kr, "KRW"));
    // a number that changes with every row and says nothing would only disturb
    write(old, row.age === null ? "–" : row.old ? age(row.age) : t("fresh"));
  }

  // what one must know before reading the numbers
  #badge(node, row) {
    const text = !row.same ? t("otherCoin") : row.old ? t("staleShort") : row.unjudged ? t("suspect") : row.caution ? t("caution") : "";
    write(node, text);
    attribute(node, "title", row.caution ? outside(row.caution) : "");
    classes(node, text ? "badge" : "");
  }

  #spark(cell, row) {
    const points = this.sparks(row.asset);
    const path = cell.firstElementChild.firstElementChild;
    if (path.points === points && path.asset === row.asset) return;
    [path.points, path.asset] = [points, row.asset];
    path.setAttribute("d", points ? sparkPath(points, 96, 24) : "");
  }

  #click(target) {
    const { column } = target.dataset;
    const asset = target.closest("tbody tr")?.dataset.asset;
    if (column) {
      if (this.by.column === column) this.by.up = !this.by.up;
      else this.by = { column, up: RISING.has(column) };
      this.#marks();
      this.arrange();
    } else if (asset && target.closest(".star")) {
      toggleFavourite(asset);
      this.arrange();
    } else if (asset) this.open(asset);
  }

  #marks() {
    for (const button of this.table.tHead.querySelectorAll("button")) {
      const chosen = button.dataset.column === this.by.column;
      button.parentNode.setAttribute("aria-sort", chosen ? (this.by.up ? "ascending" : "descending") : "none");
    }
  }
}

// an unchanged class or attribute costs no new style
function classes(node, name) { if (node.className !== name) node.className = name; }
function attribute(node, name, value) { if (node.getAttribute(name) !== value) node.setAttribute(name, value); }

function number(cell, text, value) {
  write(cell.firstElementChild, text);
  classes(cell.firstElementChild, sign(value));
}

/** A difference of premiums in percentage points. */
export const points = (value) => (value === null || value === undefined ? "–" : percent(value, 2, true).replace("%", "%p"));

const krw = (value) => money(value, currentLanguage() === "ko");
// the exchanges on which to buy and to sell
const pairText = ({ buy, sell }) => [buy, sell].map((one) => outside(String(one).split(":")[0])).join(" → ");

// a bar with its number; the colour is hot above and cold below the middle
function meter(cell, share) {
  const [bar, text] = cell.firstElementChild.children;
  write(text, share === null ? "–" : String(Math.round(share * 100)));
  const fill = bar.firstElementChild;
  const wanted = share === null ? "0" : share.toFixed(2);
  if (fill.dataset.share === wanted) return;
  fill.dataset.share = wanted;
  fill.style.transform = `scaleX(${wanted})`;
  // 0 in the middle, 1 at both ends
  const heat = share === null ? 0 : Math.max(0, Math.abs(share - 0.5) * 2 - 0.2) / 0.8;
  classes(cell, `c-place ${share > 0.5 ? "hot" : "cold"}`);
  cell.style.setProperty("--heat", `${Math.round(heat * 100)}%`);
}

function place() {
  const tr = document.createElement("tr");
  // the styles make rows of boxes, which some screen readers no longer take for a table
  tr.setAttribute("role", "row");
  const cell = (name, ...nodes) => { const td = element("td", `c-${name}`); td.setAttribute("role", "cell"); td.append(...nodes); tr.append(td); };
  const button = (name, text = "") => { const found = element("button", name, text); found.type = "button"; return found; };
  cell("star", button("star", "★"));
  const name = button("name");
  name.append(element("span"), element("small"));
  cell("asset", name);
  for (const one of ["coin", "fiat", "hour", "change"]) cell(one, element("span"));
  cell("spark", sparkNode());
  const bar = element("span", "place");
  const fill = element("span", "fill");
  fill.append(document.createElement("i"));
  bar.append(fill, element("span"));
  cell("place", bar);
  cell("pair");
  cell("trade", element("span"));
  cell("capacity");
  cell("wallets");
  cell("kr");
  cell("age");
  return tr;
}

function sparkNode() {
  const namespace = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(namespace, "svg");
  svg.setAttribute("viewBox", "0 0 96 24");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(namespace, "path"));
  return svg;
}
