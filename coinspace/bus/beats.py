"""Health of the processes of several hosts: each process publishes its own once a second.

A process's health file is read on its own host only. Other hosts learn the same facts from a
heartbeat with a field `health`, on a socket that serves nothing else.
"""

from __future__ import annotations

import time
from typing import Any

import orjson

from coinspace._ext.message import Message
from coinspace._ext.receiver import HEARTBEAT_LIMIT
from coinspace.bus.publisher import Publisher
from coinspace.bus.subscriber import Subscriber
from coinspace.bus.topics import HEARTBEATS
from coinspace.clock import SECOND_NS, monotonic_ns, now_ns
from coinspace.config import BusSettings, Settings
from coinspace.health_file import is_whole

# heartbeats queued for a reader: older ones say nothing new
QUEUED = 60
POLL_S = 0.05


def _bounded(bus: BusSettings) -> BusSettings:
    return bus.model_copy(update={"high_water_mark": QUEUED})


class Beats:
    """Publishes the health of one process of several hosts.

    Raises: BusError when the address is not this machine's or is taken: another host or process has
        the same role.
    """

    def __init__(self, settings: Settings, process: str, epoch_ns: int) -> None:
        bus = settings.bus
        self._hosts = settings.hosts_digest
        self._publisher = Publisher(
            process, _bounded(bus), epoch_ns, endpoint=bus.beat_endpoint(process)
        )

    def publish(self, health: bytes) -> None:
        """Publish a health file's content."""
        self._publisher.heartbeat(health=orjson.Fragment(health), hosts=self._hosts)

    def close(self) -> None:
        self._publisher.close()


class RemoteHealth:
    """The last heartbeat of each process that another host runs.

    Args: on_loop: read on the running event loop; otherwise `read` takes what waits.
    """

    def __init__(self, settings: Settings, *, on_loop: bool = False) -> None:
        names = [name for name, _ in settings.processes()]
        names += ["questdb"] if settings.host_of("questdb") and not settings.storage.ilp else []
        self._host_of = {name: settings.host_of(name) for name in names if not settings.here(name)}
        self._hosts = settings.hosts_digest
        self._since = {"updated_ns": now_ns(), "beat_ns": monotonic_ns()}
        self._heard: dict[str, dict[str, Any]] = {}
        self._subscriber: Subscriber | None = None
        if self._host_of:
            endpoints = [settings.bus.beat_endpoint(name) for name in self._host_of]
            self._subscriber = Subscriber(
                endpoints,
                [HEARTBEATS],
                self._on_message,
                bus=_bounded(settings.bus),
                message_bytes=HEARTBEAT_LIMIT,
            )
            if on_loop:
                self._subscriber.start()
            else:
                self._subscriber.connect()

    def read(self) -> dict[str, dict[str, Any]]:
        """Return process -> its health, in the form of a health file with the field `host`."""
        if self._subscriber is not None:
            # a publisher that never pauses must not keep the caller here
            self._subscriber.drain(QUEUED * len(self._host_of))
        return {name: self._heard.get(name) or self._unheard(name) for name in self._host_of}

    def wait(self, limit_s: float) -> None:
        """Read until each process has been heard, for a limited time."""
        end_ns = monotonic_ns() + int(limit_s * SECOND_NS)
        while self.read() and len(self._heard) < len(self._host_of) and monotonic_ns() < end_ns:
            time.sleep(POLL_S)

    def close(self) -> None:
        if self._subscriber is not None:
            self._subscriber.close()

    def _unheard(self, name: str) -> dict[str, Any]:
        host = self._host_of[name]
        return self._since | {
            "process": name,
            "host": host,
            "state": "starting",
            "reason": f"no heartbeat yet from host {host}",
            "started_ns": self._since["updated_ns"],
            "counters": {},
        }

    def _on_message(self, message: Message) -> None:
        facts = message.json()
        name, health = facts.get("process"), facts.get("health")
        if name not in self._host_of or not isinstance(health, dict):
            return
        if not (is_whole(health) and isinstance(health.get("state"), str)):
            return
        # process ids and monotonic times mean nothing on this host
        health |= {"process": name, "host": self._host_of[name], "pid": None}
        health["beat_ns"] = monotonic_ns()
        if facts.get("hosts") != self._hosts and health["state"] in ("ready", "degraded"):
            health["state"] = "degraded"
            health["reason"] = "its [hosts] differ from this host's: give all hosts one file"
        self._heard[name] = health
