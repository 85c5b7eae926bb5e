"""The streams of a platform on NATS servers: made once, compared each time, never changed silently.

A stream keeps what no storage worker has acknowledged (work queue). When it is full it refuses new
messages, so that they wait in the journals: it never drops what is not stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nats.errors
import orjson
from nats.aio.client import Client

from coinspace.bus.nats.link import Link
from coinspace.bus.streams import STREAMS
from coinspace.clock import SECOND_NS
from coinspace.config import BusSettings, Settings
from coinspace.errors import BusError

ASK_S = 3.0
# the durable consumer that all storage workers of a stream share
CONSUMER = "storage"
# batches that workers have taken and not acknowledged
TAKEN_LIMIT = 1024
# a batch that is sent again within this time is dropped by its id
DUPLICATES_S = 120
NO_STREAM = 10059
FULL = 10077
SEVERAL = 3
# shorter failures are not reported: a cluster elects a new leader within some seconds
TROUBLE_S = 3.0


class Refused(BusError):
    """The servers refuse a request. Attributes: number: their number of the error."""

    def __init__(self, text: str, number: int = 0) -> None:
        super().__init__(text)
        self.number = number


@dataclass(frozen=True)
class StreamState:
    """What the servers say about a stream.

    Attributes:
        created: when it was made. first, last: sequences. leader: "" on a single server.
        waiting: batches that no worker has taken. taken: those taken and not acknowledged.
        workers: requests of storage workers that wait for batches.
        problem: other limits or subjects than the settings say; "" = none.
    """

    name: str
    created: str
    messages: int
    bytes: int
    first: int
    last: int
    leader: str
    replicas: int
    waiting: int = 0
    taken: int = 0
    workers: int = 0
    problem: str = ""


def name_of(bus: BusSettings, stream: str) -> str:
    """Return a stream's name on the servers."""
    return f"{bus.platform}_{stream}"


def subject_of(bus: BusSettings, stream: str, publisher: str) -> str:
    """Return the subject of a publisher's batches, * for any."""
    return f"{bus.platform}.stream.{stream}.{publisher}"


async def ask(client: Client, what: str, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    """Send a request to JetStream.

    Raises: Refused with the servers' reason; nats.errors.Error without an answer.
    """
    body = orjson.dumps(facts) if facts is not None else b""
    answer = await client.request(f"$JS.API.{what}", body, timeout=ASK_S)
    return checked(answer.data, what)


def checked(answer: bytes, what: str) -> dict[str, Any]:
    """Return the facts of an answer. Raises: Refused."""
    try:
        found: dict[str, Any] = dict(orjson.loads(answer))
        error = found.get("error")
        if error:
            raise Refused(f"{what}: {error['description']}", int(error.get("err_code", 0)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{what}: expected an answer of JetStream, {error!r:.200}") from None
    return found


def wanted(settings: Settings, stream: str) -> dict[str, Any]:
    """Return a stream's configuration."""
    bus, streams = settings.bus, settings.streams
    several = len([one for one in bus.url.split(",") if one.strip()]) >= SEVERAL
    return {
        "name": name_of(bus, stream),
        "subjects": [subject_of(bus, stream, "*")],
        "retention": "workqueue",
        "discard": "new",
        "storage": "file",
        "num_replicas": streams.replicas or (SEVERAL if several else 1),
        "max_bytes": streams.max_bytes,
        "max_msgs": -1,
        "max_msg_size": -1,
        "max_age": 0,
        "duplicate_window": DUPLICATES_S * SECOND_NS,
    }


def reason(error: BaseException) -> str:
    """Return what a failed request means and what to do."""
    if isinstance(error, Refused) and error.number == FULL:
        return "it is full: see whether the storage workers run, or raise streams.max_bytes"
    if isinstance(error, nats.errors.NoRespondersError):
        return "JetStream does not answer: see that most servers run, with JetStream on"
    if isinstance(error, TimeoutError | nats.errors.TimeoutError):
        return "no answer in time: see that most servers run"
    return f"{error!s:.300}" or repr(error)


class Trouble:
    """Reports on its link that work on a stream is refused, or has failed for long.

    Args: name: of the work. text: what the failure means.
    """

    def __init__(self, link: Link, name: str, text: str) -> None:
        self._link = link
        self._name, self._text = name, text
        self._since: float | None = None

    def note(self, error: BaseException) -> None:
        """Take a failure."""
        now = self._link.loop.time()
        if self._since is None:
            self._since = now
        if isinstance(error, Refused) or now - self._since >= TROUBLE_S:
            self._link.troubles[self._name] = f"{self._text}: {reason(error)}"

    def clear(self) -> None:
        """Report no longer: the work succeeds again, or ends."""
        self._since = None
        self._link.troubles.pop(self._name, None)


async def agreed(client: Client, settings: Settings, stream: str) -> StreamState:
    """Make a stream, or compare it with the settings.

    Raises: Refused when it has other limits or subjects; nats.errors.Error without an answer.
    """
    found = await state(client, settings, stream)
    if found is None:
        config = wanted(settings, stream)
        await ask(client, f"STREAM.CREATE.{config['name']}", config)
        found = await state(client, settings, stream)
    if found is None:
        raise Refused(f"stream {name_of(settings.bus, stream)}: expected it to exist, was gone")
    if found.problem:
        raise Refused(found.problem)
    return found


async def state(client: Client, settings: Settings, stream: str) -> StreamState | None:
    """Return a stream's state, None when there is no such stream."""
    config = wanted(settings, stream)
    name = config["name"]
    try:
        found = await ask(client, f"STREAM.INFO.{name}")
    except Refused as error:
        if error.number == NO_STREAM:
            return None
        raise
    given, now, cluster = found["config"], found["state"], found.get("cluster") or {}
    others = [
        f"{key} {value!r}, was {given.get(key)!r}"
        for key, value in config.items()
        if given.get(key, 0 if key == "max_age" else -1) != value
    ]
    problem = (
        f"stream {name}: expected {'; '.join(others)}: `coinspace cluster apply` gives it the"
        " limits of the configuration"
        if others
        else ""
    )
    return StreamState(
        name,
        str(found["created"]),
        now["messages"],
        now["bytes"],
        now["first_seq"],
        now["last_seq"],
        cluster.get("leader", ""),
        given.get("num_replicas", 1),
        problem=problem,
    )


async def share(client: Client, settings: Settings, stream: str) -> None:
    """Make the consumer that a stream's storage workers share, if there is none.

    Raises: Refused, nats.errors.Error.
    """
    name = name_of(settings.bus, stream)
    config = {
        "durable_name": CONSUMER,
        "ack_policy": "explicit",
        "deliver_policy": "all",
        "ack_wait": settings.streams.ack_wait_s * SECOND_NS,
        "max_deliver": -1,
        "max_ack_pending": TAKEN_LIMIT,
    }
    what = f"CONSUMER.DURABLE.CREATE.{name}.{CONSUMER}"
    await ask(client, what, {"stream_name": name, "config": config})


async def all_states(client: Client, settings: Settings) -> list[StreamState]:
    """Return the state of each stream, with its consumer's; streams that do not exist are left out.

    Raises: Refused, nats.errors.Error.
    """
    states = []
    for stream in STREAMS:
        found = await state(client, settings, stream)
        if found is None:
            continue
        try:
            one = await ask(client, f"CONSUMER.INFO.{found.name}.{CONSUMER}")
        except Refused:
            one = {"num_pending": found.messages}
        counts = {
            "waiting": one.get("num_pending", 0),
            "taken": one.get("num_ack_pending", 0),
            "workers": one.get("num_waiting", 0),
        }
        states.append(StreamState(**(vars(found) | counts)))
    return states


async def apply(client: Client, settings: Settings) -> None:
    """Make the streams, or give them the limits of the settings. Raises: Refused."""
    for stream in STREAMS:
        config = wanted(settings, stream)
        try:
            await ask(client, f"STREAM.UPDATE.{config['name']}", config)
        except Refused as error:
            if error.number != NO_STREAM:
                raise
            await ask(client, f"STREAM.CREATE.{config['name']}", config)


# what a request may fail with
FAILURES = (BusError, OSError, TimeoutError, nats.errors.Error)
