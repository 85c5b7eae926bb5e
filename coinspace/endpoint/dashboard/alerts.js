// Alerts on the page: rules and their choices are kept in the browser, and checked while the page is open.

import { BASES } from "./premium-feed.js";
import { browser } from "./storage.js";

const KEY = "alerts";
/** The most rules, and the most alerts that are listed. */
export const RULES_LIMIT = 50;
const LOG_LIMIT = 50;
// names that one alert lists
const NAMES = 5;
/** The kinds of rules. */
export const KINDS = ["above", "below", "placeAbove", "placeBelow", "down"];
// how far a value must return before the same rule can fire again
const RETURN = { above: 0.0005, below: 0.0005, placeAbove: 0.02, placeBelow: 0.02 };
// a venue is down when it is so for this long: a connection that is replaced is not
const DOWN_MS = 5000;
// a rule that has fired is quiet for this long; what it meets meanwhile comes with its next alert
const QUIET_MS = 30_000;
const UP = new Set(["ok", "synced"]);

/** The rules, and which of them have fired. `fire` is called with {rule, names} of each alert. */
export class Alerts {
  constructor(fire) {
    this.fire = fire;
    const kept = read();
    this.rules = kept.rules;
    this.sound = kept.sound;
    this.notify = kept.notify;
    this.log = [];
    // rule -> {on: what stands, waiting: what is not shown yet, at: when it fired}
    this.states = new Map();
    this.since = new Map();
  }

  /** Add a rule; return whether there was room for it. */
  add(rule) {
    if (this.rules.length >= RULES_LIMIT) return false;
    this.rules.push(rule);
    this.keep();
    return true;
  }

  /** Remove a rule. */
  remove(rule) {
    this.rules = this.rules.filter((one) => one !== rule);
    this.states.delete(rule);
    this.keep();
  }

  /** Save the rules and choices. */
  keep() { browser.set(KEY, JSON.stringify({ rules: this.rules, sound: this.sound, notify: this.notify })); }

  /** Whether a rule needs the premiums, or the venues. */
  get needsPremiums() { return this.rules.some((one) => one.kind !== "down"); }
  get needsVenues() { return this.rules.some((one) => one.kind === "down"); }

  /** Check the rules of premiums. Args: rows: asset -> row as of `premiumRow`. now: in ms. */
  checkPremiums(rows, now) {
    for (const rule of this.rules) {
      if (rule.kind === "down") continue;
      const chosen = rule.asset === "*" ? rows.values() : [rows.get(rule.asset)];
      this.#check(rule, [...chosen].filter(Boolean).map((row) => [row.asset, value(rule, row)]), now);
    }
  }

  /** Check the rules of venues. Args: venues: as the stream sends them. now: in ms. */
  checkVenues(venues, now) {
    if (!this.needsVenues) return;
    const down = new Map();
    for (const { exchange, state } of venues) {
      const one = down.get(exchange) ?? { all: 0, down: 0 };
      one.all += 1;
      one.down += !UP.has(state);
      down.set(exchange, one);
    }
    for (const [exchange, one] of down) {
      // a few markets of an exchange may be halted
      if (one.down * 2 < one.all) this.since.delete(exchange);
      else if (!this.since.has(exchange)) this.since.set(exchange, now);
    }
    const states = [...down.keys()].map((one) => [one, now - (this.since.get(one) ?? now) >= DOWN_MS ? 1 : this.since.has(one) ? null : 0]);
    for (const rule of this.rules) {
      if (rule.kind === "down") this.#check(rule, states.filter(([name]) => rule.asset === "*" || rule.asset === name), now);
    }
  }

  // an unknown value changes nothing
  #check(rule, values, now) {
    const state = this.states.get(rule) ?? { on: new Set(), waiting: new Map(), at: -Infinity };
    this.states.set(rule, state);
    for (const [name, one] of values) {
      if (one === null || one === undefined) continue;
      if (!state.on.has(name) && holds(rule, one, 0)) { state.on.add(name); state.waiting.set(name, one); } else if (state.on.has(name) && !holds(rule, one, RETURN[rule.kind] ?? 0)) { state.on.delete(name); state.waiting.delete(name); }
    }
    if (!state.waiting.size || now - state.at < QUIET_MS) return;
    state.at = now;
    const fired = [...state.waiting];
    state.waiting.clear();
    const alert = { rule, at: now, values: fired.slice(0, NAMES), more: Math.max(0, fired.length - NAMES) };
    this.log = [alert, ...this.log].slice(0, LOG_LIMIT);
    this.fire(alert);
  }
}

const value = (rule, row) => (row.old || !row.same ? null : rule.kind.startsWith("place") ? row.places[rule.basis] : row[rule.basis]);

function holds(rule, one, slack) {
  if (rule.kind === "down") return one === 1;
  return rule.kind.toLowerCase().endsWith("above") ? one >= rule.level - slack : one <= rule.level + slack;
}

/** A rule with checked fields, null when it is not one. */
export function checked(given) {
  const { asset, kind, basis = "coin", level = null } = given ?? {};
  if (typeof asset !== "string" || !/^[\w*.-]{1,40}$/.test(asset) || !KINDS.includes(kind) || !BASES.includes(basis)) return null;
  if (kind !== "down" && !(typeof level === "number" && Math.abs(level) <= 1000)) return null;
  return { asset, kind, basis, level: kind === "down" ? null : level };
}

// what the browser kept may be anything
function read() {
  const found = { rules: [], sound: true, notify: false };
  try {
    const kept = JSON.parse(browser.get(KEY) ?? "{}");
    found.rules = (kept.rules ?? []).slice(0, RULES_LIMIT).map(checked).filter(Boolean);
    if (typeof kept.sound === "boolean") found.sound = kept.sound;
    if (typeof kept.notify === "boolean") found.notify = kept.notify;
  } catch { /* no rules */ }
  return found;
}

let audio = null;

/** Allow sound: browsers ask that the user has clicked or typed before. */
export function allowSound() {
  try { audio ??= new AudioContext(); audio.resume().catch(() => {}); } catch { /* no sound in this browser */ }
}

/** Whether a sound would be heard now. */
export const soundReady = () => audio?.state === "running";

/** Play two short tones. */
export function beep() {
  if (!soundReady()) return;
  for (const [start, pitch] of [[0, 880], [0.18, 1175]]) {
    const [tone, volume] = [audio.createOscillator(), audio.createGain()];
    tone.frequency.value = pitch;
    const at = audio.currentTime + start;
    volume.gain.setValueAtTime(0.2, at);
    volume.gain.exponentialRampToValueAtTime(0.001, at + 0.16);
    tone.connect(volume).connect(audio.destination);
    tone.start(at);
    tone.stop(at + 0.17);
  }
}

/** "default", "granted" or "denied"; null when the browser has no notifications. */
export const permission = () => globalThis.Notification?.permission ?? null;

/** Ask the user for notifications; return whether they are granted. */
export async function askPermission() {
  try { return (await Notification.requestPermission()) === "granted"; } catch { return false; }
}

/** Show a notification; an earlier one of the same rule is replaced. */
export function notification(title, body, tag) {
  if (permission() !== "granted") return;
  try {
    const shown = new Notification(title, { body, tag });
    shown.onclick = () => { window.focus(); shown.close(); };
  } catch { /* phones have notifications of service workers only */ }
}
