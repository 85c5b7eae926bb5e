// What a trade of both sides leaves, by size and direction, with the venues behind it.

import { sign } from "./assets.js";
import { age, money, outside, percent } from "./format.js";
import { currentLanguage, reasonText, t, walletText } from "./i18n.js";
import { element } from "./ladder.js";
import { number } from "./premium-feed.js";

const WAYS = ["sell_kr", "buy_kr"];

/** The panel; `show` gets `trades` of a premium, null = not known now. */
export class TradePanel {
  constructor(node) {
    this.node = node;
    this.table = node.querySelector("table");
    this.note = node.querySelector(".note");
    this.trades = null;
    this.texts();
  }

  /** Write the headings in the chosen language. */
  texts() {
    const ways = document.createElement("tr");
    ways.append(element("th"), ...WAYS.map((way) => { const th = element("th", "left", t(`way_${way}`)); th.colSpan = 3; return th; }));
    const names = document.createElement("tr");
    names.append(element("th", "", t("amount")), ...WAYS.flatMap(() => [element("th", "", t("againstUsdt")), element("th", "", t("leftKrw")), element("th", "left", t("venuePair"))]));
    this.table.tHead.replaceChildren(ways, names);
    this.show(this.trades);
  }

  /** Show these trades. */
  show(trades) {
    this.trades = trades;
    this.node.hidden = trades === undefined;
    const ways = WAYS.map((way) => trades?.directions.find((one) => one.direction === way));
    const sizes = ways.find(Boolean)?.sizes.map((one) => one.size_krw) ?? [];
    this.table.tBodies[0].replaceChildren(...sizes.map((size, i) => {
      const tr = document.createElement("tr");
      tr.append(element("td", "", krw(size)), ...ways.flatMap((way) => cells(way?.sizes[i])));
      return tr;
    }), ...(sizes.length ? [ends(ways)] : []));
    this.note.replaceChildren(...(trades ? trades.venues.map(venue) : [t("noTrades")]));
  }
}

const krw = (text) => money(number(text), currentLanguage() === "ko");

// a size that the books do not have is unknown, not 0
function cells(one) {
  const result = number(one?.coin);
  const left = number(one?.left_krw);
  const shown = element("td", sign(result), percent(result, 3, true));
  if (number(one?.fiat) !== null) shown.title = `${t("againstUsd")} ${percent(one.fiat, 3, true)}`;
  const pair = one?.buy && one?.sell ? `${outside(one.buy.split(":")[0])} → ${outside(one.sell.split(":")[0])}` : t("notInBooks");
  return [shown, element("td", "", left === null ? "–" : Math.round(left).toLocaleString("en-US")), element("td", "left", pair)];
}

// the size up to which something is left
function ends(ways) {
  const tr = document.createElement("tr");
  tr.append(element("td", "", t("capacity")));
  for (const way of ways) {
    const size = number(way?.none_left_krw);
    const td = element("td", "left", size === null ? "–" : size === 0 ? t("noSize") : `${way.book_end ? "≥ " : ""}${krw(size)}`);
    td.colSpan = 3;
    tr.append(td);
  }
  return tr;
}

function venue(one) {
  const facts = [
    t("fee", { fee: one.fee === null || one.fee === undefined ? "–" : percent(one.fee, 3).replace(/0+%$/, "%") }),
    `${t("age")} ${age(number(one.age_ms))}`,
    one.suspect ? reasonText(one.suspect) : "",
    one.deposit === one.withdraw
      ? `${t("wallets")} ${walletText(one.wallet)}`
      : `${t("deposits")} ${walletText(one.deposit)}, ${t("withdrawals")} ${walletText(one.withdraw)}`,
    one.trading === "suspended" || one.trading === "limited" ? t(`trading_${one.trading}`) : "",
    one.flags?.length ? `${t("caution")}: ${outside(one.flags.join(", "))}` : "",
  ];
  return element("span", one.suspect ? "suspect" : "", `${outside(one.venue)}: ${facts.filter(Boolean).join(" · ")}`);
}
