// The premiums of all assets, as the stream sends them: the whole list, then what has changed.

import { get } from "./api.js";

// the lines of a day have points of half an hour
const [SPARKS_MS, RETRY_MS] = [300_000, 15_000];
/** A row that is older is old; rows come once a second. */
export const OLD_MS = 6000;
/** What a premium is compared with: the price in USDT, or in USD by the bank rate. */
export const BASES = ["coin", "fiat"];
/** The windows of percentiles. */
export const WINDOWS = ["1h", "24h", "7d", "30d", "90d"];

/** The newest premiums. `changed` is called after each change. Times are the server's, in ms. */
export class PremiumFeed {
  constructor(changed) {
    this.changed = changed;
    // lines of the last day, and their basis
    this.sparks = new Map();
    this.sparksOf = null;
    this.raw = new Map();
    this.missing = [];
    this.usdt = null;
    this.fees = null;
    // of the newest event, and of the newest row
    this.ts = this.newest = null;
  }

  /** Take an event of the stream: the whole list, or what has changed. */
  take(event) {
    if (event.full) { this.raw.clear(); this.newest = null; }
    for (const part of event.premiums) {
      if (part.ts) this.newest = Math.max(this.newest, part.ts);
      const known = this.raw.get(part.asset);
      if (known) merge(known, part);
      else this.raw.set(part.asset, part);
    }
    this.missing = event.missing ?? this.missing;
    for (const asset of this.missing) this.raw.delete(asset);
    if (event.usdt !== undefined) this.usdt = event.usdt && this.usdt && !event.full ? merge(this.usdt, event.usdt) : event.usdt;
    this.ts = event.ts;
    this.changed();
  }

  /** Load the lines of the last day, if they are old. */
  async loadSparks(basis) {
    if (this.loadingSparks || (this.asked === basis && performance.now() < this.sparksDue)) return;
    this.loadingSparks = true;
    this.asked = basis;
    let pause = SPARKS_MS;
    try {
      const { premiums, fees = null } = await get("/v1/premiums", { spark: true, basis });
      this.fees = fees;
      this.sparks = new Map(premiums.map((one) => [one.asset, one.spark ?? null]));
      this.sparksOf = basis;
    } catch { pause = RETRY_MS; }
    this.loadingSparks = false;
    this.sparksDue = performance.now() + pause;
    this.changed();
  }

  /** The row of one asset with the statistics of the basis that people name first: USD where it is known. */
  row(asset, window, now) {
    const raw = this.raw.get(asset);
    return raw ? premiumRow(raw, number(raw.fiat) === null ? "coin" : "fiat", window, now) : undefined;
  }

  /** The rows of all assets, also of those without a premium. Args: basis, window: of the statistics. now: in ms. */
  rows(basis, window, now) {
    const rows = new Map();
    for (const raw of this.raw.values()) rows.set(raw.asset, premiumRow(raw, basis, window, now));
    for (const asset of this.missing) rows.set(asset, premiumRow({ asset }, basis, window, now));
    return rows;
  }
}

/** A number of the API, null when unknown: never 0. */
export const number = (text) => (text === null || text === undefined || text === "" || Number.isNaN(Number(text)) ? null : Number(text));

/** A row as the page uses it: numbers, null = unknown. Args: raw: as the stream sends it. */
export function premiumRow(raw, basis, window, now) {
  const stats = raw.stats?.[basis];
  const { trade = null } = raw;
  return {
    asset: raw.asset, kr: number(raw.kr), gl: number(raw.gl), coin: number(raw.coin), fiat: number(raw.fiat),
    // without a premium there is nothing that could be old
    old: raw.ts !== undefined && (Boolean(raw.stale) || Math.abs(now - raw.ts) > OLD_MS), ts: raw.ts ?? null, age: raw.ts === undefined ? null : now - raw.ts,
    reason: raw.reason ?? null, unjudged: Boolean(raw.unjudged), same: raw.same_coin !== "questioned",
    change: number(stats?.change_24h), hour: number(stats?.change_1h), percentile: number(stats?.[`percentile_${window}`]),
    places: Object.fromEntries(BASES.map((one) => [one, number(raw.stats?.[one]?.percentile_24h)])),
    trade: trade && { way: trade.direction, buy: trade.buy, sell: trade.sell, size: number(trade.size_krw), result: number(trade[basis]), left: number(trade.left_krw) },
    capacity: number(trade?.none_left_krw), whole: trade?.book_end === true,
    wallet: trade?.transfer ?? null, caution: trade?.cautions?.join(", ") || null,
  };
}

// what has changed, into what is known; a null is a value
function merge(known, part) {
  for (const [name, value] of Object.entries(part)) {
    const nested = value !== null && typeof value === "object" && !Array.isArray(value) && name !== "trade";
    if (nested && known[name] && Object.hasOwn(known, name)) merge(known[name], value);
    else known[name] = value;
  }
  return known;
}
