// Alerts with values of a test: `m` is their module, `done` gets what has fired.
const rule = (more) => ({ asset: "BTC", kind: "above", basis: "coin", level: 0.03, ...more });
const rows = (...given) => new Map(given.map(([asset, coin, place = 0.5, more = {}]) => [asset, { asset, coin, places: { coin: place }, same: true, old: false, ...more }]));
let fired = [];
const alerts = new m.Alerts((alert) => fired.push(alert));
const check = (run) => { fired = []; run(); return fired.flatMap((one) => [...one.values.map(([name]) => name), ...(one.more ? [one.more] : [])]); };
const found = {};
alerts.rules = [rule()];
// over the level, still over, just below, far below, over again
found.above = [0.031, 0.04, 0.0298, 0.02, 0.03].map((coin) => check(() => alerts.checkPremiums(rows(["BTC", coin]))));
alerts.rules = [rule({ kind: "placeBelow", level: 0.05 })];
found.place = [0.04, 0.06].map((place) => check(() => alerts.checkPremiums(rows(["BTC", 0, place]))));
alerts.rules = [rule({ asset: "*" })];
found.every = check(() => alerts.checkPremiums(rows(...Array.from({ length: 8 }, (_, i) => [`A${i}`, 0.05]))));
alerts.rules = [rule({ asset: "*", kind: "below", level: 0.1 })];
found.unknown = check(() => alerts.checkPremiums(rows(["A", null], ["B", 0.01, 0.5, { old: true }], ["C", 0.01, 0.5, { same: false }])));
alerts.rules = [rule({ asset: "upbit", kind: "down", level: null })];
const venues = (state) => [{ exchange: "upbit", state }, { exchange: "upbit", state }, { exchange: "upbit", state: "synced" }, { exchange: "binance", state: "disconnected" }];
found.down = [["synced", 0], ["disconnected", 1000], ["disconnected", 7000], ["disconnected", 8000], ["synced", 9000], ["stale", 10_000, 16_000]]
  .map(([state, ...times]) => check(() => times.forEach((time) => alerts.checkVenues(venues(state), time))));
alerts.rules = [];
for (let i = 0; i < 60; i += 1) alerts.add(rule());
found.rules = alerts.rules.length;
alerts.rules = [];
alerts.keep();
found.refused = [null, 5, {}, rule({ asset: 1 }), rule({ asset: "<b>" }), rule({ kind: "toString" }), rule({ level: "1" })].map(m.checked);
done(found);
