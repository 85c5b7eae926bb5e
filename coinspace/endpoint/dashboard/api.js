// Requests to the API and the live stream, with this tab's API key if there is one.

import { tab } from "./storage.js";

const KEY = "coinspace-key";
// the connection is lost when the server has sent no heartbeat for this long
const SILENCE_MS = 12_000;
const RETRY_MS = [250, 500, 1000, 2000, 4000];

let askKey = () => {};

/** Register the function that asks the user for a key. */
export function onKeyNeeded(ask) { askKey = ask; }

let onTime = () => {};

/** Register the function that gets the server's time of each answer, in ms, to the second. */
export function onServerTime(take) { onTime = take; }

/** Keep a key for this tab. */
export function saveKey(key) { tab.set(KEY, key); }

function headers(more = {}) {
  const key = tab.get(KEY);
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

/** Return a JSON answer; throws an Error with the problem's text and status. */
export async function get(path, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined));
  const address = query.size ? `${path}?${query}` : path;
  const answer = await fetch(address, { headers: headers() });
  const time = Date.parse(answer.headers.get("date") ?? "");
  if (time) onTime(time);
  if (answer.ok) return answer.json();
  if (answer.status === 401) askKey();
  const problem = await answer.json().catch(() => ({ detail: answer.statusText }));
  throw Object.assign(new Error(problem.detail), { status: answer.status });
}

/**
 * Server-sent events by fetch: EventSource can neither send a key nor notice a silent server.
 * Reconnects automatically and resumes after the last event.
 */
export class Stream {
  constructor(path, onEvent, onState) {
    this.path = path;
    this.onEvent = onEvent;
    this.onState = onState;
    this.lastId = null;
    this.attempts = 0;
    this.stopped = false;
  }

  start() { this.stopped = false; this.#run(); }

  stop() { this.stopped = true; this.controller?.abort(); clearTimeout(this.timer); }

  async #run() {
    while (!this.stopped) {
      try {
        await this.#read();
      } catch (error) {
        if (this.stopped) return;
      }
      if (this.stopped) return;
      this.onState("cut");
      const pause = RETRY_MS[Math.min(this.attempts++, RETRY_MS.length - 1)];
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  #watch() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.controller.abort(), SILENCE_MS);
  }

  async #read() {
    this.controller = new AbortController();
    this.#watch();
    const more = this.lastId ? { "Last-Event-ID": this.lastId } : {};
    const answer = await fetch(this.path, { headers: headers(more), signal: this.controller.signal, cache: "no-store" });
    if (answer.status === 401) { askKey(); this.stop(); return; }
    if (!answer.ok) throw new Error(String(answer.status));
    this.attempts = 0;
    this.onState("live");
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let buffer = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      this.#watch();
      buffer += value;
      const blocks = buffer.split("\n\n");
      buffer = blocks.pop();
      for (const block of blocks) this.#block(block);
    }
  }

  #block(block) {
    let name = "message";
    let data = "";
    let id = null;
    for (const line of block.split("\n")) {
      const colon = line.indexOf(": ");
      const field = line.slice(0, colon);
      const value = line.slice(colon + 2);
      if (field === "event") name = value;
      else if (field === "data") data += value;
      else if (field === "id") id = value;
    }
    if (id) this.lastId = id;
    if (data) this.onEvent(name, JSON.parse(data));
  }
}
