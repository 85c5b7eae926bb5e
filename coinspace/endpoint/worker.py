"""`coinspace index-endpoint`: bus and database in, HTTP out; one process, one loop."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import click
import structlog

from coinspace import process
from coinspace.bus.beats import RemoteHealth
from coinspace.bus.subscriber import Subscriber
from coinspace.clock import now_ns
from coinspace.config import RATE_COLLECTOR, Settings, config_option, load
from coinspace.constituents import collected
from coinspace.endpoint.context import Context
from coinspace.endpoint.http.app import build
from coinspace.endpoint.http.gate import keys_needed
from coinspace.endpoint.http.keys import keys_of
from coinspace.endpoint.http.server import HttpServer
from coinspace.endpoint.live.feeder import Feeder
from coinspace.endpoint.live.hub import Hub
from coinspace.endpoint.live.state import Live
from coinspace.endpoint.routes.platform import reasons
from coinspace.errors import EndpointError
from coinspace.storage.read.pool import Database, readonly_address
from coinspace.tasks import OnFailure, Tasks, log_failure

NAME = "index-endpoint"
TOPICS = [b"index.", b"aggregate.", b"state.", b"heartbeat.", b"rate.", b"fact."]
# kinds of messages with a topic per market
MARKET_KINDS = ("orderbook", "ticker", "trade")
# on a busy bus, waiting messages are read together
PAUSE_S = 0.002
DASHBOARD = Path(__file__).parent / "dashboard" / "dist"
STATE_CHECK_S = 1.0


def publishers(settings: Settings) -> list[str]:
    """Return the names of the processes that the endpoint listens to."""
    names = [f"orderbook-collector-{exchange}" for exchange in settings.exchanges]
    names += [f"ticker-collector-{exchange}" for exchange in settings.exchanges]
    names += [RATE_COLLECTOR] if settings.has_rates else []
    return [*names, "orderbook-aggregator", "index-calculator"]


def topics_of(exchange: str, market: str) -> list[bytes]:
    """Return the topics of one market."""
    return [f"{kind}.{exchange}.{market}.".encode() for kind in MARKET_KINDS]


def check_keys(settings: Settings) -> None:
    """Refuse to serve other machines without a key.

    Raises: EndpointError when the settings need a key and no key is valid.
    """
    keys = keys_of(settings)
    if keys_needed(settings.endpoint) and not len(keys):
        raise EndpointError(
            f"endpoint.host {settings.endpoint.host}: expected an API key, {keys.file} has no valid"
            " one; `coinspace keys new NAME` makes one"
        )


class Endpoint:
    """All parts of one endpoint process, without the process."""

    def __init__(
        self,
        settings: Settings,
        *,
        dashboard: Path = DASHBOARD,
        on_failure: OnFailure = log_failure,
        on_restart: OnFailure = log_failure,
    ) -> None:
        self.settings = settings
        self.tasks = Tasks(on_failure, on_restart)
        chosen = settings.endpoint
        self.live = Live(settings=settings)
        self.hub = Hub(
            max_streams=chosen.max_streams,
            stall_s=chosen.stream_stall_s,
            resume_s=chosen.resume_s,
            boot=f"{now_ns() // 1_000_000:x}",
        )
        self.database = Database(
            lambda: readonly_address(settings),
            size=chosen.connections,
            timeout_s=chosen.query_timeout_s,
        )
        self.context = Context(settings, self.live, self.hub, self.database, now_ns, dashboard)
        self.gate, self.app = build(self.context)
        check_keys(settings)
        self.server = HttpServer(self.gate, chosen)
        self.subscriber: Any = None
        # markets whose messages arrive
        self._followed: set[tuple[str, str]] = set()
        self.feeder = Feeder(self.context)

    async def start(self) -> None:
        """Subscribe to the bus, then accept clients."""
        bus = self.settings.bus
        endpoints = [bus.endpoint(name) for name in publishers(self.settings)]
        # exchanges have many more markets than the index: others follow with their first request
        self._followed = set(self._collected())
        topics = [one for key in sorted(self._followed) for one in topics_of(*key)]
        self.subscriber = Subscriber(
            endpoints,
            [*TOPICS, *topics],
            self.live.on_message,
            on_gap=self.live.on_gap,
            # the page needs only the newest book
            conflate=True,
            pause_s=PAUSE_S,
            bus=bus,
        )
        self.subscriber.start()
        self.context.follow = self._follow
        self.live.on_asset = self._on_asset
        if self.settings.hosts:
            self.context.remote = RemoteHealth(self.settings, on_loop=True)
        await self.app.start()  # type: ignore[no-untyped-call]
        self.feeder.start(self.tasks)
        self.tasks.keep(
            "stored premiums",
            lambda: self.context.premiums.stats.load(self.database),
            ends=True,
        )
        await self.server.start()
        self._write_url()

    def _collected(self) -> list[tuple[str, str]]:
        return [
            (exchange, market)
            for exchange in self.settings.exchanges
            for market in collected(self.settings, exchange)
        ]

    def _on_asset(self, asset: str) -> None:
        self.context.premiums.stats.add(asset)
        for key in self._collected():
            self._follow(*key)

    def _follow(self, exchange: str, market: str) -> None:
        if (exchange, market) not in self._followed:
            self._followed.add((exchange, market))
            for topic in topics_of(exchange, market):
                self.subscriber.add(topic)

    @property
    def _url_file(self) -> Path:
        return self.settings.data / "run" / f"{NAME}.url"

    def _write_url(self) -> None:
        try:
            self._url_file.parent.mkdir(parents=True, exist_ok=True)
            self._url_file.write_text(self.server.url)
        except OSError as error:
            # without the file, commands take the address of the settings
            with contextlib.suppress(OSError):
                self._url_file.unlink(missing_ok=True)
            structlog.get_logger(NAME).error("address not written", error=str(error))

    async def stop(self) -> None:
        """Announce the end to streams, finish requests, close everything."""
        with contextlib.suppress(OSError):
            self._url_file.unlink(missing_ok=True)
        self.hub.shutdown()
        await self.server.stop()
        await self.tasks.cancel()
        if self.subscriber is not None:
            self.subscriber.close()
        if self.context.remote is not None:
            self.context.remote.close()
        await self.app.stop()  # type: ignore[no-untyped-call]
        await self.database.close()

    def counters(self) -> dict[str, int | float]:
        """Counters for the health file."""
        bus = self.subscriber.counters() if self.subscriber is not None else {}
        return {
            **{f"bus_{name}": value for name, value in bus.items()},
            **self.live.counters(),
            **self.gate.counters(),
            **self.hub.counters(),
            **self.database.counters(),
            **self.server.counters(),
        }


async def main(running: process.Process) -> None:
    """Serve until asked to stop."""
    endpoint = Endpoint(running.settings, on_failure=running.failed, on_restart=running.restarting)
    await endpoint.start()
    running.counters = endpoint.counters
    structlog.get_logger(NAME).info("serving", url=endpoint.server.url)
    try:
        while not running.stopping.is_set():
            await endpoint.database.ping()
            found = reasons(endpoint.context)
            if found:
                running.degraded("; ".join(found))
            else:
                running.ready()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(running.stopping.wait(), STATE_CHECK_S)
    finally:
        await endpoint.stop()


@click.command("index-endpoint")
@config_option
def index_endpoint(config_path: str | None) -> None:
    """Serve the HTTP API, streams and the dashboard."""
    process.run(NAME, load(config_path), main)
