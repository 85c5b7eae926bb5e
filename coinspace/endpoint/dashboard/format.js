// Numbers and times for display. The API's decimal strings stay exact.

const currencies = { KRW: "₩", USDT: "" };

/** Decimals of a price: six significant digits, more for large ones, which are quoted in cents. */
export function decimals(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return 0;
  if (size >= 100 || !(size > 0)) return 2;
  return Math.min(20, 5 - Math.floor(Math.log10(size)));
}

/** A price with digits that fit its size; null is a dash. */
export function price(text, currency = "", digits = decimals(Number(text))) {
  if (text === null || text === undefined) return "–";
  const value = Number(text);
  return (currencies[currency] ?? "") + value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** A distance between prices, with three significant digits. */
export function distance(text) {
  if (text === null || text === undefined) return "–";
  return Number(text).toLocaleString("en-US", { maximumSignificantDigits: 3 });
}

/** A size in base units. */
export function size(text) {
  if (text === null || text === undefined) return "–";
  const value = Number(text);
  for (const [unit, name] of [[1e12, "T"], [1e9, "B"], [1e6, "M"]]) if (value >= unit) return `${(value / unit).toFixed(2)}${name}`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  return value.toLocaleString("en-US", { maximumFractionDigits: value >= 100 ? 1 : value >= 1 ? 3 : 5 });
}

/** An amount in KRW in the units that a Korean screen uses, or in millions; null is a dash. */
export function money(value, korean = false) {
  if (value === null || value === undefined) return "–";
  const units = korean ? [[1e8, "억"], [1e4, "만"]] : [[1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const [unit, name] = units.find(([one]) => value >= one) ?? [1, ""];
  return `${korean ? "" : "₩"}${(value / unit).toLocaleString("en-US", { maximumSignificantDigits: 3 })}${name}${korean ? "원" : ""}`;
}

/** Decimals for a column of prices: those of the first one, more when neighbours would look equal. */
export function columnDecimals(prices) {
  let digits = prices.length ? decimals(Number(prices[0])) : 2;
  const most = digits + 3;
  const equal = (one, i) => i && one !== prices[i - 1] && price(one, "", digits) === price(prices[i - 1], "", digits);
  while (digits < most && prices.some(equal)) digits += 1;
  return digits;
}

/** A format for a column of sizes: one unit and one number of decimals for all. */
export function columnSize(most) {
  const [unit, name] = [[1e12, "T"], [1e9, "B"], [1e6, "M"]].find(([each]) => most >= each * 10) ?? [1, ""];
  const digits = Math.max(0, Math.min(8, 4 - Math.floor(Math.log10(Math.max(most / unit, 1e-6)))));
  const least = 10 ** -digits;
  return (value) => {
    const shown = Number(value) / unit;
    // a small size is not none
    const [sign, number] = shown > 0 && shown < least / 2 ? ["<", least] : ["", shown];
    return sign + number.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }) + name;
  };
}

/** A fraction as a percentage. */
export function percent(text, digits = 2, sign = false) {
  if (text === null || text === undefined) return "–";
  const value = Number(text) * 100;
  const shown = value.toFixed(digits);
  return `${sign && value > 0 ? "+" : ""}${shown === `-${(0).toFixed(digits)}` ? (0).toFixed(digits) : shown}%`;
}

/** An age in ms. */
export function age(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms <= -1000) return `−${age(-ms)}`;
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min`;
  return `${Math.floor(ms / 3_600_000)} h`;
}

/** A local time of day. */
export function clock(ms) {
  return new Date(ms).toLocaleTimeString("en-GB", { hour12: false });
}

/** A rate per second. */
export function rate(value) {
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)}k`;
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}

/** The CSS variable of an exchange's colour. */
export function venueColour(exchange) {
  return `var(--venue-${exchange}, var(--other))`;
}

/** The current value of a CSS variable, for canvases. */
export function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** The current colour of an exchange, for canvases. */
export function venueCanvasColour(exchange) {
  return cssColour(`--venue-${exchange}`) || cssColour("--other");
}

// characters of a text from outside
const LONGEST = 200;
// what has no shape of its own: controls, marks of direction, halves of characters, ends of lines
const HIDDEN = /[\p{C}\p{Zl}\p{Zp}]/gu;
const LEFT_TO_RIGHT = /^[\p{ASCII}\p{sc=Hangul}…·–]*$/u;

/** A text from outside, such as a reason: cut, without hidden characters, and apart from the direction of the text around it. */
export function outside(given) {
  const text = String(given ?? "");
  const shown = text.slice(0, LONGEST).replace(HIDDEN, (one) => `\\u{${one.codePointAt(0).toString(16)}}`) + (text.length > LONGEST ? "…" : "");
  return LEFT_TO_RIGHT.test(shown) ? shown : `\u2068${shown}\u2069`;
}
