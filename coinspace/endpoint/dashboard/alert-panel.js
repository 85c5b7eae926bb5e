// The dialog of alerts: rules, choices, the last alerts; and the short message of a new one.

import { Alerts, KINDS, RULES_LIMIT, allowSound, askPermission, beep, checked, notification, permission, soundReady } from "./alerts.js";
import { clock, outside, percent } from "./format.js";
import { t } from "./i18n.js";
import { element, write } from "./ladder.js";
import { BASES } from "./premium-feed.js";

const SHOWN_MS = 12_000;

/** The dialog and its alerts. `changed` is called when the rules have changed. */
export class AlertPanel {
  constructor(dialog, message, changed) {
    this.dialog = dialog;
    this.message = message;
    this.changed = changed;
    this.alerts = new Alerts((alert) => this.#fire(alert));
    this.form = dialog.querySelector("form");
    this.asset = dialog.querySelector("#alert-asset");
    this.kind = dialog.querySelector("#alert-kind");
    this.basis = dialog.querySelector("#alert-basis");
    this.level = dialog.querySelector("#alert-level");
    this.problem = dialog.querySelector("#alert-problem");
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.#add(); });
    this.kind.addEventListener("change", () => this.#fields());
    dialog.querySelector("#alert-close").addEventListener("click", () => dialog.close());
    dialog.querySelector("#alert-sound").addEventListener("click", () => { this.alerts.sound = !this.alerts.sound; this.alerts.keep(); allowSound(); if (this.alerts.sound) beep(); this.#choices(); });
    dialog.querySelector("#alert-notify").addEventListener("click", () => this.#notify());
    message.addEventListener("click", () => this.#hide());
    // a browser lets a page sound only after a click or a key
    for (const kind of ["pointerdown", "keydown"]) document.addEventListener(kind, () => { if (this.alerts.rules.length && this.alerts.sound && !soundReady()) allowSound(); }, { passive: true });
    this.texts();
  }

  /** Offer these exchanges. */
  offer(exchanges) { this.exchanges = exchanges; this.#fields(); }

  /** Open the dialog and offer these assets. */
  open(assets) {
    this.assets = assets;
    this.draw();
    this.#fields();
    if (!this.dialog.open) this.dialog.showModal();
  }

  /** Write all texts in the chosen language. */
  texts() {
    for (const [select, names] of [[this.kind, KINDS], [this.basis, BASES]]) {
      const chosen = select.value || names[0];
      select.replaceChildren(...names.map((name) => { const option = element("option", "", t(`alert_${name}`)); option.value = name; return option; }));
      select.value = chosen;
    }
    this.draw();
    this.#fields();
  }

  /** Write the rules, the choices and the last alerts. */
  draw() {
    this.#choices();
    const { rules, log } = this.alerts;
    this.dialog.querySelector("#alert-rules").replaceChildren(...rules.map((rule) => {
      const node = element("li", "", describe(rule));
      const remove = element("button", "tool", t("remove"));
      remove.type = "button";
      remove.setAttribute("aria-label", `${t("remove")}: ${describe(rule)}`);
      remove.addEventListener("click", () => { this.alerts.remove(rule); this.#changed(); });
      node.append(remove);
      return node;
    }));
    write(this.dialog.querySelector("#alert-none"), rules.length ? "" : t("noRules"));
    this.dialog.querySelector("#alert-log").replaceChildren(...log.map((one) => element("li", "", `${clock(one.at)} ${describe(one.rule)}: ${what(one)}`)));
    this.dialog.querySelector("#alert-log-title").hidden = !log.length;
  }

  #choices() {
    const [sound, notify] = ["#alert-sound", "#alert-notify"].map((id) => this.dialog.querySelector(id));
    sound.setAttribute("aria-pressed", String(this.alerts.sound));
    write(sound, t("sound"));
    const allowed = permission();
    notify.disabled = allowed === null || allowed === "denied";
    notify.setAttribute("aria-pressed", String(this.alerts.notify && allowed === "granted"));
    write(notify, t(allowed === null ? "noNotifications" : allowed === "denied" ? "blockedNotifications" : "notifications"));
  }

  #fields() {
    const down = this.kind.value === "down";
    this.level.parentNode.hidden = down;
    this.basis.parentNode.hidden = down;
    write(this.level.previousElementSibling, t(this.kind.value.startsWith("place") ? "alertPlace" : "alertLevel"));
    write(this.asset.previousElementSibling, t(down ? "exchange" : "asset"));
    const names = (down ? this.exchanges : this.assets) ?? [];
    const chosen = this.asset.value;
    this.asset.replaceChildren(...["*", ...names].map((name) => { const option = element("option", "", name === "*" ? t(down ? "everyExchange" : "everyAsset") : name); option.value = name; return option; }));
    this.asset.value = chosen === "*" || names.includes(chosen) ? chosen : "*";
    write(this.problem, "");
  }

  #add() {
    const place = this.kind.value.startsWith("place");
    const level = Number(this.level.value.replace(",", ".")) / 100;
    const given = this.kind.value === "down" ? null : this.level.value.trim() === "" || (place && !(level >= 0 && level <= 1)) ? NaN : level;
    const rule = checked({ asset: this.asset.value, kind: this.kind.value, basis: this.basis.value, level: given });
    if (!rule) { write(this.problem, t("badLevel")); return; }
    if (!this.alerts.add(rule)) { write(this.problem, t("tooManyRules", { limit: RULES_LIMIT })); return; }
    write(this.problem, "");
    this.level.value = "";
    allowSound();
    this.#changed();
  }

  #changed() { this.draw(); this.changed(); }

  async #notify() {
    if (permission() === "granted") this.alerts.notify = !this.alerts.notify;
    else this.alerts.notify = await askPermission();
    this.alerts.keep();
    this.#choices();
  }

  #fire(alert) {
    const [title, text] = [describe(alert.rule), what(alert)];
    this.message.replaceChildren(element("b", "", title), element("span", "", text));
    this.message.hidden = false;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#hide(), SHOWN_MS);
    if (this.alerts.sound) beep();
    if (this.alerts.notify) notification(`CoinSpace · ${title}`, text, title);
    if (this.dialog.open) this.draw();
  }

  #hide() { this.message.hidden = true; }
}

// a rule in words
function describe({ asset, kind, basis, level }) {
  const name = asset === "*" ? t(kind === "down" ? "everyExchange" : "everyAsset") : outside(asset);
  if (kind === "down") return t("ruleDown", { name });
  if (kind.startsWith("place")) return t(kind === "placeAbove" ? "rulePlaceAbove" : "rulePlaceBelow", { name, level: percent(level, 0), basis: t(`alert_${basis}`) });
  return t(kind === "above" ? "ruleAbove" : "ruleBelow", { name, level: percent(level, 2, true), basis: t(`alert_${basis}`) });
}

function what({ rule, values, more }) {
  const shown = values.map(([name, one]) => (rule.kind === "down" ? outside(name) : `${outside(name)} ${percent(one, rule.kind.startsWith("place") ? 0 : 2, !rule.kind.startsWith("place"))}`));
  return [...shown, ...(more ? [t("andMore", { count: more })] : [])].join(", ");
}
