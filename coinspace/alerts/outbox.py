"""What is to be delivered, on disk: a restart neither loses a message nor sends one twice.

Events of one target wait until they may be sent, and then share one message. A message that is
being delivered does not change; what happens meanwhile goes into the next one, in which each alert
stands once with its newest state. So what waits is bounded by the number of alerts.

One file has it all: standing alerts, waiting events, messages being delivered, what was not
delivered. It is written before each attempt and after it.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from msgspec import Struct

from coinspace.alerts.rules import MOST_ALERTS, Event, Key, Lost, Standing
from coinspace.backoff import Backoff
from coinspace.clock import SECOND_NS
from coinspace.files import read_regular, replace_file

VERSION = 1
FIRST_WAIT_S = 1.0
LAST_WAIT_S = 300.0
# a target that asks for a longer pause is tried again after this one
LONGEST_WAIT_S = 3600.0
# events in one message; further ones are counted in it
MOST_EVENTS = 500
UNDELIVERED_KEPT = 100


class Message(Struct):
    """One message to one target.

    Attributes:
        id: the same in each attempt. made_ms: by the wall clock.
        omitted: events beyond those that the message names.
        attempts: those that were begun. tried_s: time since the first one, without pauses of the
            process.
        trying: an attempt has begun and not ended.
        unsure: an attempt ended without an answer, so that the target may have the message.
    """

    id: str
    made_ms: int
    events: list[Event]
    omitted: int = 0
    attempts: int = 0
    tried_s: float = 0.0
    trying: bool = False
    unsure: bool = False


class Undelivered(Struct):
    """A message that was given up."""

    target: str
    at_ms: int
    reason: str
    alerts: int
    text: str


class Saved(Struct):
    """A target's part of the file."""

    waiting: list[Event] = []
    sending: Message | None = None


class Content(Struct):
    """The file."""

    version: int = VERSION
    standing: list[Standing] = []
    lost: dict[str, Lost] = {}
    targets: dict[str, Saved] = {}
    undelivered: list[Undelivered] = []


class Outcome(Struct):
    """How an attempt ended.

    Attributes:
        reason: why not, None = delivered.
        final: another attempt would end the same.
        unsure: the target may have received the message.
        wait_s: pause that the target asked for.
    """

    reason: str | None = None
    final: bool = False
    unsure: bool = False
    wait_s: float = 0.0


class Queue:
    """What waits for one target. Times are ns of the monotonic clock.

    Attributes: problem: why the last attempt failed, None = it did not.
    """

    def __init__(self, saved: Saved, group_s: float, interval_s: float, give_up_s: float) -> None:
        self.limits(group_s, interval_s, give_up_s)
        self.sending = saved.sending
        if self.sending is not None and self.sending.trying:
            # the process ended in the middle of an attempt
            self.sending.unsure = True
        self.problem: str | None = None
        self.delivered = self.failures = self.attempts = 0
        self._waiting = {(one.rule, one.subject): one for one in saved.waiting}
        # alert -> when it may be sent
        self._due: dict[Key, int] = {}
        # alert -> when it was last part of a message
        self._sent: dict[Key, int] = {}
        self._backoff = Backoff(FIRST_WAIT_S, LAST_WAIT_S)
        self._not_before = 0
        self._tried_ns: int | None = None

    def limits(self, group_s: float, interval_s: float, give_up_s: float) -> None:
        """Use these settings from now on."""
        self._group_ns = int(group_s * SECOND_NS)
        self._interval_ns = int(interval_s * SECOND_NS)
        self._give_up_s = give_up_s

    @property
    def waiting(self) -> int:
        """Number of alerts that are not delivered yet."""
        sending = self.sending
        return len(self._waiting) + (len(sending.events) + sending.omitted if sending else 0)

    def add(self, event: Event, now: int) -> None:
        """Take an event; it replaces one of the same alert that waits."""
        key = (event.rule, event.subject)
        before = self._waiting.pop(key, None)
        if before is not None:
            event = msgspec.structs.replace(event, count=event.count + before.count)
        elif len(self._waiting) >= MOST_ALERTS:
            # rules have no more alerts than that; ended ones may be left over from removed rules
            oldest = next(iter(self._waiting))
            del self._waiting[oldest]
            self._due.pop(oldest, None)
        self._waiting[key] = event
        if key not in self._due:
            quiet = self._sent.get(key)
            earliest = now if quiet is None else quiet + self._interval_ns
            self._due[key] = max(now + self._group_ns, earliest)

    def next(self, now: int, wall_ms: int) -> Message | None:
        """Return the message to send now, and count the attempt; None = none is due."""
        if now < self._not_before:
            return None
        if self.sending is None:
            self._gather(now, wall_ms)
        if self.sending is not None:
            self.attempts += 1
            self.sending.attempts += 1
            self.sending.trying = True
            if self._tried_ns is None:
                self._tried_ns = now - int(self.sending.tried_s * SECOND_NS)
            self.sending.tried_s = (now - self._tried_ns) / SECOND_NS
        return self.sending

    def _gather(self, now: int, wall_ms: int) -> None:
        # one that is due takes along those whose grouping time still runs
        ready = [key for key in self._waiting if self._due.get(key, 0) <= now + self._group_ns]
        if not any(self._due.get(key, 0) <= now for key in ready):
            return
        events = [self._waiting.pop(key) for key in ready]
        self._sent = {k: at for k, at in self._sent.items() if now - at < self._interval_ns}
        for key in ready:
            self._due.pop(key, None)
            self._sent[key] = now
        self.sending = Message(
            uuid.uuid4().hex, wall_ms, events[:MOST_EVENTS], max(0, len(events) - MOST_EVENTS)
        )
        self._tried_ns = None

    def settle(self, outcome: Outcome, now: int) -> str | None:
        """Take the outcome of an attempt. Returns: why the message is given up, None = it is not.

        The message stays in `sending` until the caller calls `drop`, unless it is delivered.
        """
        message = self.sending
        assert message is not None
        assert self._tried_ns is not None
        self.problem, message.trying = outcome.reason, False
        message.tried_s = (now - self._tried_ns) / SECOND_NS
        if outcome.reason is None:
            self.delivered += 1
            self._backoff.reset()
            self.drop()
            return None
        self.failures += 1
        message.unsure = message.unsure or outcome.unsure
        wait_s = max(self._backoff.next(), min(outcome.wait_s, LONGEST_WAIT_S))
        self._not_before = now + int(wait_s * SECOND_NS)
        if outcome.final:
            return outcome.reason
        if message.tried_s >= self._give_up_s:
            return f"{outcome.reason}, after {message.attempts} attempts in {message.tried_s:.0f} s"
        return None

    def drop(self) -> None:
        """Forget the message that is being delivered."""
        self.sending, self._tried_ns = None, None

    def retry_at_once(self) -> None:
        """Try again without a pause: the target's settings are new."""
        self._backoff.reset()
        self._not_before = 0

    def due_ns(self, now: int) -> int | None:
        """Return when `next` may have a message, None = only after another event."""
        if self.sending is not None:
            return max(now, self._not_before)
        if not self._waiting:
            return None
        first = min(self._due.get(key, 0) for key in self._waiting)
        return max(now, first, self._not_before)

    def saved(self) -> Saved:
        """Return the target's part of the file."""
        return Saved(list(self._waiting.values()), self.sending)


_decode = msgspec.json.Decoder(Content).decode


def read(path: Path) -> Content:
    """Return the file's content, an empty one without a file.

    Raises: OSError or ValueError when it cannot be read.
    """
    try:
        found = _decode(read_regular(path))
    except FileNotFoundError:
        return Content()
    if found.version != VERSION:
        raise ValueError(f"expected version {VERSION}, was {found.version}")
    return found


def write(path: Path, content: Content) -> None:
    """Replace the file; it is on disk afterwards. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, msgspec.json.encode(content), private=True, durable=True)


class Outbox:
    """The queues of all targets and their file.

    Attributes: undelivered: the newest messages that were given up; given_up: their number.
    """

    def __init__(self, path: Path, content: Content) -> None:
        self._path = path
        self._saved = dict(content.targets)
        self.queues: dict[str, Queue] = {}
        self.undelivered = deque(content.undelivered, maxlen=UNDELIVERED_KEPT)
        self.given_up = 0
        self.unwritten: str | None = None

    def apply(
        self, targets: Iterable[str], limits: tuple[float, float, float], wall_ms: int
    ) -> list[Undelivered]:
        """Have a queue for each target. Returns: what waited for targets that are gone.

        Args: limits: group_s, interval_s and give_up_s.
        """
        targets = list(targets)
        for name in targets:
            if name in self.queues:
                self.queues[name].limits(*limits)
            else:
                self.queues[name] = Queue(self._saved.pop(name, Saved()), *limits)
        gone = {
            name: self.queues.pop(name).saved() for name in [*self.queues] if name not in targets
        }
        gone |= self._saved
        self._saved = {}
        lost = []
        for name, saved in gone.items():
            events = [*(saved.sending.events if saved.sending else ()), *saved.waiting]
            if events:
                omitted = saved.sending.omitted if saved.sending else 0
                lost.append(self.give_up(name, events, omitted, "the target was removed", wall_ms))
        return lost

    def give_up(
        self, target: str, events: list[Event], omitted: int, reason: str, wall_ms: int
    ) -> Undelivered:
        """Record events as undelivered."""
        more = f" and {len(events) + omitted - 1} more" if len(events) + omitted > 1 else ""
        one = Undelivered(target, wall_ms, reason, len(events) + omitted, f"{events[0].text}{more}")
        self.undelivered.append(one)
        self.given_up += 1
        return one

    def save(self, standing: Iterable[Standing], lost: dict[str, Lost]) -> None:
        """Write the file; a failure stays in `unwritten` until a later call succeeds."""
        content = Content(
            VERSION,
            list(standing),
            lost,
            {name: queue.saved() for name, queue in self.queues.items()},
            list(self.undelivered),
        )
        try:
            write(self._path, content)
        except OSError as error:
            self.unwritten = str(error)
        else:
            self.unwritten = None

    def counters(self) -> dict[str, int]:
        """Counters for the health file."""

        def total(of: Callable[[Queue], int]) -> int:
            return sum(of(queue) for queue in self.queues.values())

        return {
            "alerts_waiting": total(lambda one: one.waiting),
            "alert_messages": total(lambda one: one.delivered),
            "alert_attempts": total(lambda one: one.attempts),
            "alert_failures": total(lambda one: one.failures),
            "alert_messages_undelivered": self.given_up,
        }
