// The list of assets: search, order and favourites. A row is a place: assets change places, rows do not move.

import { isFavourite, toggleFavourite } from "./favourites.js";
import { percent, price } from "./format.js";
import { t } from "./i18n.js";
import { element, write } from "./ladder.js";

const COLUMNS = ["asset", "value", "premium"];

/** The list; `choose` is called with the asset that was chosen. */
export class AssetList {
  constructor(node, choose) {
    this.node = node;
    this.search = node.querySelector("input");
    this.table = node.querySelector("table");
    this.none = node.querySelector(".empty");
    this.choose = choose;
    // no column: the order of the configuration
    this.by = { column: null, up: true };
    this.order = [];
    this.search.addEventListener("input", () => this.#arrange());
    this.search.addEventListener("keydown", (event) => { if (event.key === "Enter" && this.order.length) choose(this.order[0]); });
    this.table.addEventListener("click", (event) => this.#click(event.target));
    this.texts();
  }

  /** Write the headings in the chosen language. */
  texts() {
    this.search.placeholder = t("searchAssets");
    this.none.textContent = t("noAssets");
    const tr = document.createElement("tr");
    tr.append(element("th"));
    for (const name of COLUMNS) {
      const button = element("button", "", t({ asset: "asset", value: "indexLine", premium: "premiumShort" }[name]));
      button.type = "button";
      button.dataset.column = name;
      const th = element("th", name === "asset" ? "left" : "");
      th.append(button);
      tr.append(th);
    }
    this.table.tHead.replaceChildren(tr);
    this.#marks();
  }

  /** Show these assets. Args: values: asset -> newest value. old: whether a value is too old to rely on. */
  show(assets, values, chosen, old) {
    Object.assign(this, { assets, values, chosen, old });
    // an order by numbers changes with them, but not under the pointer
    if (!this.order.length || (this.by.column && !this.node.matches(":hover"))) this.#arrange();
    else this.#draw();
  }

  #arrange() {
    if (!this.assets) return;
    const wanted = this.search.value.trim().toUpperCase();
    const { column, up } = this.by;
    const number = (asset) => { const one = this.values.get(asset); return Number((column === "premium" ? one?.premium?.coin : one?.value) ?? NaN); };
    const compare = (a, b) => {
      if (column === "asset") return a.localeCompare(b);
      const [x, y] = [number(a), number(b)];
      return x === y ? 0 : x - y;
    };
    const first = (asset) => (isFavourite(asset) ? 0 : 1);
    // assets without a number stand last in both directions
    const missing = (asset) => Number(["value", "premium"].includes(column) && Number.isNaN(number(asset)));
    this.order = this.assets.filter((asset) => asset.toUpperCase().includes(wanted)).sort((a, b) =>
      first(a) - first(b) || missing(a) - missing(b) || (column && !missing(a) ? (up ? compare(a, b) : compare(b, a)) : 0));
    this.none.hidden = this.order.length > 0;
    this.#draw();
  }

  #draw() {
    const body = this.table.tBodies[0];
    while (body.rows.length > this.order.length) body.lastElementChild.remove();
    while (body.rows.length < this.order.length) body.append(row());
    this.order.forEach((asset, i) => {
      const tr = body.rows[i];
      const [star, name, value, premium] = tr.cells;
      const one = this.values.get(asset);
      tr.dataset.asset = asset;
      tr.classList.toggle("old", Boolean(one) && this.old(one));
      write(name.firstElementChild, asset);
      name.firstElementChild.setAttribute("aria-current", String(asset === this.chosen));
      star.firstElementChild.setAttribute("aria-pressed", String(isFavourite(asset)));
      star.firstElementChild.setAttribute("aria-label", t("favourite", { asset }));
      write(value, price(one?.value));
      write(premium, percent(one?.premium?.coin, 2, true));
      premium.className = sign(one?.premium?.coin);
    });
  }

  #click(target) {
    const { column } = target.dataset;
    const asset = target.closest("tbody tr")?.dataset.asset;
    if (column) {
      // up, down, as configured
      if (this.by.column !== column) this.by = { column, up: column === "asset" };
      else if (this.by.up === (column === "asset")) this.by.up = !this.by.up;
      else this.by.column = null;
      this.#marks();
      this.#arrange();
    } else if (asset && target.closest(".star")) this.#star(asset);
    else if (asset) this.choose(asset);
  }

  #star(asset) {
    toggleFavourite(asset);
    this.#arrange();
  }

  #marks() {
    for (const button of this.table.tHead.querySelectorAll("button")) {
      const chosen = button.dataset.column === this.by.column;
      button.parentNode.setAttribute("aria-sort", chosen ? (this.by.up ? "ascending" : "descending") : "none");
    }
  }
}

/** The CSS class of a number's sign. */
export const sign = (text) => (text === null || text === undefined ? "" : +text > 0 ? "pos" : +text < 0 ? "neg" : "");

function row() {
  const tr = document.createElement("tr");
  for (const name of ["star", "name"]) {
    const button = element("button", name, name === "star" ? "★" : "");
    button.type = "button";
    const td = element("td", "left");
    td.append(button);
    tr.append(td);
  }
  tr.append(element("td"), element("td"));
  return tr;
}
