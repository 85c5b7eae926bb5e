// The user's favourite assets: one set for every list of the page, kept in the browser.

import { browser } from "./storage.js";

const KEY = "favourites";
// a name is at most this long, and this many are kept
const [NAME, LIMIT] = [20, 1000];

const chosen = read();

/** Whether an asset is a favourite. */
export const isFavourite = (asset) => chosen.has(asset);

/** Make an asset a favourite, or no longer one; where there is no room, the oldest is given up. */
export function toggleFavourite(asset) {
  if (!chosen.delete(asset)) {
    if (chosen.size >= LIMIT) chosen.delete(chosen.values().next().value);
    chosen.add(asset);
  }
  browser.set(KEY, JSON.stringify([...chosen]));
}

// what the browser kept may be anything
function read() {
  try {
    const kept = JSON.parse(browser.get(KEY) ?? "[]");
    return new Set(kept.filter((one) => typeof one === "string" && one.length <= NAME).slice(0, LIMIT));
  } catch { return new Set(); }
}
