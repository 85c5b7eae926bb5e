// The table of premiums with rows of a test: `m` is the module of the feed, `done` gets what it shows.
const at = document.querySelector("script[type=module]").src;
const { PremiumTable } = await import(at.replace("app.js", "premium-table.js"));
const favourites = await import(at.replace("app.js", "favourites.js"));
const now = 1790000000000;
const whole = (asset, coin, percentile, more = {}) => ({
  asset, ts: now, stale: false, coin, fiat: null, same_coin: "known", stats: { coin: { change_24h: "0.001", percentile_24h: percentile }, fiat: null }, trade: null, ...more,
});
const trade = (transfer, cautions) => ({
  direction: "sell_kr", buy: "binance:ABC/USDT", sell: "upbit:ABC/KRW", size_krw: "10000000", coin: "0.01", fiat: null, left_krw: "100000",
  none_left_krw: "50000000", book_end: false, transfer, cautions,
});
const feed = new m.PremiumFeed(() => {});
const premiums = [
  whole("LOW", "-0.01", "0.1"), whole("HIGH", "0.05", "0.9", { unjudged: true, trade: trade("partial", []) }),
  whole("MIDDLE", "0.02", "0.5", { trade: trade("closed", ["upbit:ABC/KRW PRICE_FLUCTUATIONS"]) }),
  whole("OLD", "0.01", "0.9", { ts: now - 60_000 }), whole("OTHER", "3.5", "1", { same_coin: "questioned" }),
];
feed.take({ ts: now, full: true, premiums, missing: ["NONE"], usdt: null });
const node = document.getElementById("premium-list").cloneNode(true);
node.querySelector("tbody").replaceChildren();
node.removeAttribute("id");
node.className = "";
// over the whole screen, so that every row can be seen
node.style.cssText = "position:fixed;inset:0;z-index:9";
document.body.append(node);
favourites.toggleFavourite("LOW");
const table = new PremiumTable(node, { open() {}, sparks: () => null });
table.show(feed.rows("coin", "24h", now));
const rows = [...node.querySelectorAll("tbody tr")];
const texts = (name) => rows.map((row) => row.querySelector(`.c-${name}`).textContent);
const found = {
  order: rows.map((row) => row.dataset.asset),
  classes: rows.map((row) => row.className),
  places: texts("place"),
  wallets: texts("wallets"),
  warned: rows.map((row) => row.querySelector("small").title),
  badges: rows.map((row) => row.querySelector("small").textContent),
};
const none = rows.find((row) => row.dataset.asset === "NONE");
const unknown = ["coin", "fiat", "hour", "change", "pair", "trade", "capacity", "wallets", "kr"].map((name) => none.querySelector(`.c-${name}`).textContent);
found.unknown = [...unknown, none.querySelector("path").getAttribute("d"), none.querySelector("small").textContent];
const read = (asset, names) => { const row = feed.rows("coin", "24h", now).get(asset); return Object.fromEntries(names.map((name) => [name, row[name]])); };
feed.take({ ts: now, full: false, premiums: [{ asset: "MIDDLE", stats: { coin: { percentile_24h: "0.4" } } }], missing: ["NONE"] });
found.merged = read("MIDDLE", ["coin", "fiat", "change", "percentile"]);
feed.take({ ts: now, full: false, premiums: [{ asset: "MIDDLE", coin: null, stats: { coin: null } }], missing: ["NONE"] });
found.gone = read("MIDDLE", ["coin", "percentile"]);
favourites.toggleFavourite("LOW");
node.remove();
done(found);
