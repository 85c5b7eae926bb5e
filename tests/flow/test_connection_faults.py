"""Every step of a connection's life goes wrong, on every exchange; the books come back by
themselves.
"""

import asyncio
from pathlib import Path

import pytest

from coinspace.collector import connection as connection_module
from coinspace.errors import ConfigError
from coinspace.exchanges import binance, bithumb, upbit
from coinspace.simulator import faults
from coinspace.simulator.server import ExchangeServer
from coinspace.simulator.simulation import Simulation
from tests.flow.certificates import make_certificates
from tests.flow.collecting import collecting
from tests.waiting import free_port, until

MARKET = {"upbit": "BTC/KRW", "bithumb": "BTC/KRW", "binance": "BTC/USDT"}
HANDSHAKE_S = 2.0

# fault that a dial meets -> the cause that is counted, or one of two
DIALS = {
    "refuse": "connect",
    "accept-close": "handshake",
    # the reset may arrive before the connection is open
    "accept-reset": "handshake connect",
    "accept-hang": "timeout",
    "request-close": "handshake",
    "request-reset": "handshake",
    "request-hang": "timeout",
    "half-header": "timeout",
    "half-header-close": "handshake",
    "wrong-key": "handshake",
    "handshake:status=503": "http",
    "handshake:status=429": "http",
    "handshake:status=0": "timeout",
}
# faults that end an open connection and every new one until the fault is over
ENDS = {
    "cut": "lost",
    "reset": "lost",
    "close": "closed",
    "close:code=1011:reason=gone": "closed",
    "close:code=999": "protocol",
    "halfopen": "no_pong",
}


# on uvloop, picows leaves the socket of a dial that is reset to the garbage collector
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "HANDSHAKE_TIMEOUT_S", HANDSHAKE_S)
    for exchange in (upbit, bithumb, binance):
        monkeypatch.setattr(exchange, "PING_INTERVAL_S", 0.5)


async def survive(
    exchange: str, kind: str, cause: str, tls: Path | None = None
) -> dict[str, int | float]:
    """Collect a book through one fault; return the counters."""
    ca_file, context = make_certificates(tls) if tls is not None else (None, None)
    name, _, options = kind.partition(":")
    spec = f"{name}:{exchange}:{options}:for=1h".replace("::", ":")
    markets = {exchange: [MARKET[exchange]]}
    async with (
        ExchangeServer(
            Simulation(5, markets, rate=0.5), port=free_port(), limits=False, tls=context
        ) as server,
        collecting(server, exchange, markets=markets[exchange], ca_file=ca_file) as running,
    ):
        await running.synced()
        counted = [f'connection_failures{{cause="{one}"}}' for one in cause.split()]
        fault = running.fault(spec)
        if kind not in ENDS:
            # the open link is lost, and the next one meets the fault
            running.fault(f"cut:{exchange}")
        await running.until(
            lambda: any(running.count(one) for one in counted), f"{spec} is counted as {cause}"
        )
        server.disorder.remove(fault.id)
        await running.synced()
        assert running.worker.process.failure is None
        assert running.count("failures") == running.count("malformed") == 0
        found = running.worker.counters()
    assert found["links"] == 1
    return found


async def survive_all(kinds: dict[str, str], tls: Path | None = None) -> None:
    """Let each fault happen to each exchange, all at the same time."""
    runs = {
        (exchange, kind): survive(exchange, kind, cause, tls)
        for kind, cause in kinds.items()
        for exchange in MARKET
    }
    results = await asyncio.gather(*runs.values(), return_exceptions=True)
    failed = {
        run: result
        for run, result in zip(runs, results, strict=True)
        if isinstance(result, BaseException)
    }
    assert not failed, failed
    for (_, kind), counters in zip(runs, results, strict=True):
        assert isinstance(counters, dict)
        assert 'connection_failures{cause="internal"}' not in counters, kind
        assert counters["connect_failures"] < 6, "no storm of dials"


GROUPS = [dict(list(DIALS.items())[i::3]) for i in range(3)] + [ENDS]


@pytest.mark.parametrize("kinds", GROUPS, ids=["dials 1", "dials 2", "dials 3", "ends"])
async def test_books_come_back_after_every_fault_of_a_connection(kinds: dict[str, str]) -> None:
    await survive_all(kinds)


async def test_books_come_back_from_a_broken_handshake_of_tls(tmp_path: Path) -> None:
    await survive_all({"tls-close": "tls", "tls-hang": "timeout"}, tmp_path)


def test_every_fault_of_a_connection_is_tried() -> None:
    tried = {kind.partition(":")[0] for kind in (*DIALS, *ENDS)} | {"tls-close", "tls-hang"}
    known = faults.NAMELESS_KINDS | faults.ANSWER_KINDS.keys() | faults.CONNECTION_KINDS
    # error and shutdown are messages of the exchange, revoke is about its keys: with own tests
    assert known - tried == {"error", "shutdown", "revoke"}
    for kind in known:
        assert kind in str(faults.__doc__)


async def test_impossible_faults_are_refused_with_the_reason() -> None:
    async with ExchangeServer(
        Simulation(5, {"upbit": ["BTC/KRW"], "binance": ["BTC/USDT"]})
    ) as one:
        with pytest.raises(ConfigError, match=r"expected the exchange \*"):
            one.disorder.add("accept-close:upbit")
        with pytest.raises(ConfigError, match="expected a server with TLS"):
            one.disorder.add("tls-close:*")
        with pytest.raises(ConfigError, match="expected for=SECONDS"):
            one.disorder.add("refuse:*")
        one.disorder.add("accept-close:*:count=1")


async def test_a_closed_port_is_open_again_when_its_fault_is_removed() -> None:
    only = {"upbit": ["BTC/KRW"]}
    async with ExchangeServer(Simulation(5, only), port=free_port()) as server:
        fault = server.disorder.add("refuse:upbit:for=1h")
        await until(lambda: fault.hits)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        server.disorder.clear()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.close()
        await writer.wait_closed()
