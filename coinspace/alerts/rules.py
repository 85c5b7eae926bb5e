"""Which alerts stand: judged from index records, states of venues and health, without I/O.

An alert is one rule and one subject: an asset, a venue, a process or the disk. It begins when the
rule's condition has held for the rule's time without a break. It ends when the condition has ended,
beyond the hysteresis. A value that is not known, such as a premium while the index is null, begins
no alert and ends none. Times are ns of the monotonic clock; the wall clock is only shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from msgspec import Struct

from coinspace.alerts.samples import Samples
from coinspace.clock import SECOND_NS
from coinspace.config import Settings
from coinspace.config_alerts import AlertRule, Kind
from coinspace.method.record import PremiumRecord
from coinspace.observe.health import Health
from coinspace.text import printable

# alerts that stand or are about to begin; a rule that finds more is a fault of the rule
MOST_ALERTS = 20_000
# records further apart do not show that a condition held in between
BREAK_NS = 5 * SECOND_NS
# an index is silent when its last record is older
SILENT_NS = 5 * SECOND_NS
# an alert about lost messages ends when none has been lost for this long
LOST_NS = 600 * SECOND_NS
# a sample of the future would keep its place until that time
FUTURE_MS = 5_000
DEFAULT_BEHIND_S = 30.0
LOST = ("messages_lost", "trades_lost")
DISK = "disk"
TEXT_LIMIT = 300
# end of the subject of an alert about messages that are lost for good
LOST_SUFFIX = " lost"
NOT_WATCHED = "is not watched any more"

Key = tuple[str, str]


class Event(Struct):
    """An alert has begun or ended.

    Attributes:
        state: `raised`, `cleared`, or `test`. at_ms: when, by the wall clock.
        value, level: of rules that compare numbers.
        count: how often the alert has changed since it was last reported.
    """

    rule: str
    kind: str
    subject: str
    state: str
    text: str
    at_ms: int
    value: float | None = None
    level: float | None = None
    count: int = 1


class Standing(Struct):
    """An alert that has begun and not ended; since_ms: by the wall clock."""

    rule: str
    kind: str
    subject: str
    since_ms: int
    text: str = ""


class Lost(Struct):
    """What a process had counted as lost when it was last looked at."""

    started_ns: int
    total: float


class Record(Struct):
    """What rules read of an index record."""

    asset: str
    ts_ms: int | float
    value: float | None = None
    reason: str | None = None
    premium: float | None = None
    premium_parts: PremiumRecord | None = None
    premium_unjudged: bool | None = None

    def premium_of(self, basis: str) -> float | None:
        """Return the premium on a basis; None without one that can be trusted."""
        parts = self.premium_parts
        if parts is None or self.premium is None or self.premium_unjudged:
            return None
        return parts.b if basis == "coin" else parts.a


class Moment(Struct):
    """One instant by both clocks."""

    now_ns: int
    wall_ms: int


def percent(fraction: float) -> str:
    return f"{round(100 * fraction, 4):g} %"


def assets_of(rule: AlertRule, assets: Iterable[str]) -> list[str]:
    """Return the assets that a rule watches."""
    return [one for one in assets if any(fnmatchcase(one, pattern) for pattern in rule.assets)]


class Rules:
    """All rules of the configuration.

    Args:
        report: called with each event.
        standing: alerts that an earlier process left standing.
        lost: process -> what it had counted as lost, as an earlier process saw it.
        began: this process's start.
    """

    def __init__(
        self,
        settings: Settings,
        report: Callable[[Event], None],
        began: Moment,
        standing: Iterable[Standing] = (),
        lost: Mapping[str, Lost] | None = None,
    ) -> None:
        self._report = report
        self._disk_low_mb = settings.storage.disk_low_mb
        self.standing: dict[Key, Standing] = {(one.rule, one.subject): one for one in standing}
        self.lost: dict[str, Lost] = dict(lost or {})
        # alerts whose condition holds and whose time is not over -> since when
        self._pending: dict[Key, int] = {}
        self.overflow = 0
        # asset -> when its last record came, and since when it has no value
        self._heard: dict[str, int] = {}
        self._null: dict[str, tuple[int, str]] = {}
        # process -> when it was last seen to have lost messages
        self._lost_ns = {
            one.subject.removesuffix(LOST_SUFFIX): began.now_ns for one in self.standing.values()
        }
        self.apply(settings, began)

    def apply(self, settings: Settings, at: Moment) -> None:
        """Use the rules of other settings from now on; alerts of rules that are gone end."""
        self.rules = dict(settings.alerts.rules)
        self._disk_low_mb = settings.storage.disk_low_mb
        self._assets = list(settings.index.assets)
        self._premium = self._by_asset("premium")
        self._index = self._by_asset("index")
        # venue or process -> the rules about it
        self._watching: dict[tuple[str, str], list[tuple[str, AlertRule]]] = {}
        self.samples = self._make_samples()
        for asset in self._index:
            self._heard.setdefault(asset, at.now_ns)
        for asset in self._heard.keys() - self._index.keys() - self._premium.keys():
            del self._heard[asset]
        self._pending = {key: since for key, since in self._pending.items() if self._has(*key)}
        for key, one in list(self.standing.items()):
            if not self._has(*key) or self.rules[key[0]].kind != one.kind:
                self._end(key, at, NOT_WATCHED)

    def _by_asset(self, kind: Kind) -> dict[str, list[tuple[str, AlertRule]]]:
        found: dict[str, list[tuple[str, AlertRule]]] = {}
        for name, rule in self._of(kind):
            for asset in assets_of(rule, self._assets):
                found.setdefault(asset, []).append((name, rule))
        return found

    def _make_samples(self) -> dict[tuple[str, str], Samples]:
        windows: dict[tuple[str, str], set[str]] = {}
        for asset, rules in self._premium.items():
            for _, rule in rules:
                if rule.by_percentile:
                    windows.setdefault((asset, rule.basis), set()).add(rule.window)
        known = getattr(self, "samples", {})
        return {
            key: known[key] if key in known and known[key].windows >= found else Samples(found)
            for key, found in windows.items()
        }

    def _has(self, name: str, subject: str) -> bool:
        rule = self.rules.get(name)
        if rule is None:
            return False
        if rule.kind in ("premium", "index"):
            return subject in assets_of(rule, self._assets)
        patterns = {"venue": rule.venues, "process": rule.processes}.get(rule.kind, ["*"])
        return any(fnmatchcase(subject, one) for one in patterns)

    @property
    def needs_records(self) -> bool:
        """Whether a rule is about the index or its premium."""
        return bool(self._premium or self._index)

    def on_record(self, record: Record, at: Moment) -> None:
        """Judge an asset by a new index record."""
        asset = record.asset
        if asset not in self._premium and asset not in self._index:
            return
        last_ns = self._heard.get(asset, at.now_ns)
        self._heard[asset] = at.now_ns
        if record.value is None:
            self._null.setdefault(asset, (at.now_ns, record.reason or "no reason"))
        else:
            self._null.pop(asset, None)
        for name, _ in self._index.get(asset, ()) if record.value is not None else ():
            self._judge(name, asset, False, at, f"{asset} index has a value")
        for basis in ("coin", "fiat"):
            premium, samples = record.premium_of(basis), self.samples.get((asset, basis))
            if samples and premium is not None and record.ts_ms <= at.wall_ms + FUTURE_MS:
                samples.add(int(record.ts_ms), premium)
        for name, rule in self._premium.get(asset, ()):
            if at.now_ns - last_ns > BREAK_NS:
                self._pending.pop((name, asset), None)
            self._judge_premium(name, rule, record, at)

    def _judge_premium(self, name: str, rule: AlertRule, record: Record, at: Moment) -> None:
        asset, premium = record.asset, record.premium_of(rule.basis)
        if premium is None:
            self._judge(name, asset, None, at, "")
            return
        value: float | None = premium
        currency = "USDT" if rule.basis == "coin" else "USD"
        shown, level = f"{asset} premium against {currency} {percent(premium)}", percent(rule.level)
        if rule.by_percentile:
            samples = self.samples[asset, rule.basis]
            value = samples.percentile(at.wall_ms, rule.window, premium)
            level = f"percentile {rule.level:g} of {rule.window}"
            shown += "" if value is None else f" (percentile {round(value, 2):g})"
        holds = None
        if value is not None:
            # positive beyond the level
            beyond = value - rule.level if rule.is_over else rule.level - value
            holds = True if beyond > 0 else False if beyond <= -rule.hysteresis else None
        way = "over" if rule.is_over else "under"
        text = f"{shown}, {'' if holds else 'no longer '}{way} {level}"
        self._judge(name, asset, holds, at, text, value=value, level=rule.level)

    def check(
        self,
        at: Moment,
        venues: Mapping[str, str | None],
        healths: Iterable[Health],
        free_mb: int | None,
    ) -> None:
        """Judge what has no records, and silence; once a second.

        Args:
            venues: EXCHANGE:BASE/QUOTE -> why the venue delivers nothing, None = it does.
            free_mb: of the data's disk, None = not known.
        """
        for asset, rules in self._index.items():
            self._check_index(asset, rules, at)
        for venue, why in venues.items():
            for name, _ in self._about("venue", venue):
                text = f"{venue} is {why}" if why else f"{venue} delivers again"
                self._judge(name, venue, why is not None, at, text)
        self._end_absent(("venue",), venues, at)
        found = {one.process: one for one in healths}
        for health in found.values():
            self._check_health(health, at)
        self._end_absent(("process", "storage", "gap"), found, at)
        for name, rule in self._of("disk") if free_mb is not None else ():
            self._check_disk(name, rule, free_mb or 0, at)

    def _check_index(self, asset: str, rules: list[tuple[str, AlertRule]], at: Moment) -> None:
        silent_ns = at.now_ns - self._heard[asset]
        if asset in self._null:
            since_ns, reason = self._null[asset]
            text = f"{asset} index has no value ({reason})"
        elif silent_ns > SILENT_NS:
            since_ns = self._heard[asset]
            text = f"{asset} index: no record for {silent_ns // SECOND_NS} s"
        else:
            return
        for name, _ in rules:
            self._judge(name, asset, True, at, text, since_ns=since_ns)

    def _check_health(self, health: Health, at: Moment) -> None:
        process = health.process
        stopped = health.stopped or health.state in ("stopping", "stopped")
        for name, _ in self._about("process", process):
            reason = f" ({health.reason})" if health.reason else ""
            text = f"{process} is {health.state}{reason}"
            self._judge(name, process, not (health.ok or stopped), at, text)
        if "oldest_pending_s" in health.counters:
            behind_s = health.counters["oldest_pending_s"]
            # a process that does not run stores nothing
            behind_s += health.age_s if health.state in ("down", "silent") else 0
            for name, rule in self._of("storage"):
                level = DEFAULT_BEHIND_S if rule.behind_s is None else rule.behind_s
                text = f"{process}: the oldest row has waited {behind_s:.0f} s to be stored"
                if behind_s <= level:
                    text = f"{process} stores rows again"
                holds = None if stopped else behind_s > level
                self._judge(name, process, holds, at, text, value=behind_s, level=level)
        if any(rule.kind == "gap" for rule in self.rules.values()):
            self._check_gaps(health, at)

    def _check_gaps(self, health: Health, at: Moment) -> None:
        process, n_open = health.process, health.total("gaps_open")
        if health.state in ("down", "silent") or not health.counters:
            return
        total = health.total(*LOST)
        before = self.lost.get(process)
        self.lost[process] = Lost(health.started_ns, total)
        base = total if before is None else before.total
        if before is not None and before.started_ns != health.started_ns:
            # another run of the process counts from 0
            base = 0
        if total > base:
            self._lost_ns[process] = at.now_ns
        lost_ns = self._lost_ns.get(process)
        recent = lost_ns is not None and at.now_ns - lost_ns < LOST_NS
        for name, _ in self._of("gap"):
            # of a loss for good nothing has to be waited for
            self._judge(
                name,
                process + LOST_SUFFIX,
                recent,
                at,
                f"{process}: {total - base:.0f} more messages or trades are lost for good"
                if recent
                else f"{process} has lost no more for {LOST_NS // SECOND_NS} s",
                delay_ns=0,
            )
            text = f"{process}: {n_open:.0f} gaps are open" if n_open else f"{process}: no open gap"
            self._judge(name, process, n_open > 0, at, text)

    def _check_disk(self, name: str, rule: AlertRule, free_mb: int, at: Moment) -> None:
        level = self._disk_low_mb if rule.free_mb is None else rule.free_mb
        holds = True if free_mb < level else False if free_mb >= level + rule.hysteresis else None
        text = f"{free_mb} MB free on the disk of the data, {'' if holds else 'no longer '}under"
        text += f" {level} MB"
        self._judge(name, DISK, holds, at, text, value=free_mb, level=level)

    def _of(self, kind: Kind) -> Iterable[tuple[str, AlertRule]]:
        return [(name, rule) for name, rule in self.rules.items() if rule.kind == kind]

    def _about(self, kind: Kind, subject: str) -> list[tuple[str, AlertRule]]:
        found = self._watching.get((kind, subject))
        if found is None:
            found = [
                (name, rule)
                for name, rule in self._of(kind)
                for patterns in [rule.venues if kind == "venue" else rule.processes]
                if any(fnmatchcase(subject, one) for one in patterns)
            ]
            if len(self._watching) < MOST_ALERTS:
                self._watching[kind, subject] = found
        return found

    def _end_absent(self, kinds: tuple[str, ...], known: Iterable[str], at: Moment) -> None:
        """End alerts about venues or processes that are not collected or not run any more."""
        subjects = set(known)
        for key, one in list(self.standing.items()):
            if one.kind in kinds and one.subject.removesuffix(LOST_SUFFIX) not in subjects:
                self._end(key, at, NOT_WATCHED)

    def _judge(
        self,
        name: str,
        subject: str,
        holds: bool | None,
        at: Moment,
        text: str,
        *,
        value: float | None = None,
        level: float | None = None,
        since_ns: int | None = None,
        delay_ns: int | None = None,
    ) -> None:
        """Apply a condition to an alert.

        Args:
            holds: None = not known, or between the level and the end of the hysteresis.
            since_ns: when the condition began, by default now.
            delay_ns: instead of the rule's own time.
        """
        key, rule = (name, subject), self.rules[name]
        if key in self.standing:
            if holds is False:
                self._end(key, at, text, value, level)
            return
        if not holds:
            self._pending.pop(key, None)
            return
        since = self._pending.get(key)
        if since is None:
            if len(self._pending) + len(self.standing) >= MOST_ALERTS:
                self.overflow += 1
                return
            since = self._pending[key] = at.now_ns if since_ns is None else since_ns
        wait_ns = int(rule.delay_s * SECOND_NS) if delay_ns is None else delay_ns
        if at.now_ns - since < wait_ns:
            return
        del self._pending[key]
        shown = printable(text, TEXT_LIMIT)
        self.standing[key] = Standing(name, rule.kind, subject, at.wall_ms, shown)
        self._report(Event(name, rule.kind, subject, "raised", shown, at.wall_ms, value, level))

    def _end(
        self,
        key: Key,
        at: Moment,
        text: str,
        value: float | None = None,
        level: float | None = None,
    ) -> None:
        one = self.standing.pop(key)
        shown = text if one.subject in text or one.kind == "disk" else f"{one.subject} {text}"
        event = Event(one.rule, one.kind, one.subject, "cleared", printable(shown, TEXT_LIMIT), 0)
        event.at_ms, event.value, event.level = at.wall_ms, value, level
        self._report(event)

    def counters(self) -> dict[str, int]:
        """Counters for the health file."""
        return {
            "alert_rules": len(self.rules),
            "alerts_standing": len(self.standing),
            "alerts_pending": len(self._pending),
            "alerts_overflow": self.overflow,
        }
