"""Five exchanges in a whole platform: every fault on the new ones, then a listing, nothing lost.

The faults run on Coinone and Coinbase while the other exchanges go on.
"""

import time
from collections.abc import Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
import pytest

from coinspace.config import Settings
from coinspace.process import ERRORS
from coinspace.simulator.faults import (
    ACCEPT_KINDS,
    ANSWER_KINDS,
    CONNECTION_KINDS,
    FRAME_KINDS,
    KINDS,
)
from tests.flow.database import applied
from tests.flow.platform import Database, Platform, alive, platform
from tests.waiting import wait_for

FAULTY = ("coinone", "coinbase")
QUOTES = {"upbit": "KRW", "bithumb": "KRW", "binance": "USDT", "coinone": "KRW", "coinbase": "USD"}
ASSETS = {"BTC", "ETH", "XRP", "SOL"}
# listed while the platform runs
NEW = "SOL"
LISTED_S = 60.0
VENUES = {
    f"{exchange}:{base}/{quote}"
    for exchange, quote in QUOTES.items()
    for base in ASSETS | {"USDT"}
    if base != quote
}
SETTINGS = {
    "COINSPACE_INDEX__ASSETS": "BTC, *",
    # by default, less is stored of the markets that a pattern brings in
    "COINSPACE_STORAGE__POLICY": '[{"markets": ["*"], "depth": 30}]',
    **{
        f"COINSPACE_EXCHANGES__{exchange.upper()}__MARKETS": f"*/{quote}"
        for exchange, quote in QUOTES.items()
    },
}

NO_TLS = "the exchanges of `up --simulate` have no TLS"
# faults that neither exchange can show -> why
IMPOSSIBLE = {
    "tls-close": NO_TLS,
    "tls-hang": NO_TLS,
    "revoke": "neither exchange has streams that need an API key",
    "stale": "only Binance joins a book of REST with updates of the stream",
    "warn": "neither exchange publishes warnings",
    "budget": "only Binance counts the requests of other programs at an address",
    "rate": "it belongs to a source of USD/KRW, not to an exchange",
}
# a changed digit in a trade is another valid trade, which no collector can know for a wrong one
OF_BOOKS = {"flip", "digit"}
# kind -> options, one fault after another
FRAMES = {
    kind: {
        "coalesce": "n=5:count=20",
        "huge": "bytes=1000000:count=3",
        "mute": "count=20",
    }.get(kind, "count=5")
    for kind in sorted(FRAME_KINDS)
}
LOST_LINKS = {
    kind: {"shutdown": "n=1:count=1"}.get(kind, "count=1")
    for kind in sorted(CONNECTION_KINDS - IMPOSSIBLE.keys())
}
HANGING = [kind for kind, (_, then) in ANSWER_KINDS.items() if then == "hang"]
# in rounds, as the wait between attempts to connect grows; `*`: no request names an exchange yet
REFUSED_LINKS = [
    [
        *(f"{kind}:{{}}:count=1" for kind in ANSWER_KINDS if kind not in HANGING),
        "handshake:{}:count=1",
    ],
    [*(f"{kind}:{{}}:count=1" for kind in HANGING), "handshake:{}:status=0:count=1"],
    [*(f"{kind}:*:count=1" for kind in sorted(ACCEPT_KINDS - IMPOSSIBLE.keys())), "refuse:*:for=2"],
]
# they are in force while the others come and go
BESIDE = [
    *(f"rest:{{}}:status={status}:count=1" for status in (418, 429, 500, 503)),
    "rest:{}:status=0:ms=3000:count=1",
    "facts:{}:form=html:count=1",
    "halt:{}:ETH/{quote}",
    "delist:{}:XRP/{quote}",
    "wallet:{}:BTC/{quote}",
]
CLOCK = ["clock:{}:by=2m", "clock:{}:by=-2m"]


def test_every_fault_is_tried_or_impossible() -> None:
    specs = [*BESIDE, *CLOCK, *chain(*REFUSED_LINKS)]
    tried = {*FRAMES, *LOST_LINKS, *(one.partition(":")[0] for one in specs)}
    assert tried == KINDS - IMPOSSIBLE.keys()


@pytest.mark.slow
@pytest.mark.timeout(540)
def test_faults_and_a_listing_lose_nothing(tmp_path: Path) -> None:
    began_ms = time.time_ns() // 1_000_000
    unlisted = [f"--fault=delist:{name}:{NEW}/{quote}" for name, quote in QUOTES.items()]
    with platform(tmp_path, "--with", "coinone", "--with", "coinbase", *unlisted, **SETTINGS) as up:
        note = Notes()
        wait_for(lambda: valued(up) == ASSETS - {NEW}, "the listed assets", limit_s=120)
        pending = [one["id"] for one in up.control("GET")["faults"]]
        wait_for(lambda: all_synced(up, VENUES - of_asset(NEW)), "all books", limit_s=60)
        # every process has written its state
        wait_for(partial(healthy, up), "a healthy status at first", limit_s=90)
        pids = up.pids()
        note("started")

        beside = add(up, filled(BESIDE))
        check_frames(up, note)
        check_lost_links(up, note)
        check_refused_links(up, note)
        wait_for(partial(took_effect, up, beside), "the faults beside", limit_s=90)
        note("faults of requests and markets")
        remove(up, beside)
        for spec in CLOCK:
            clock = add(up, filled([spec]))
            wait_for(partial(settled, up, FAULTY), f"books under {spec}", limit_s=60)
            remove(up, clock)
        wait_for(lambda: all_synced(up, VENUES - of_asset(NEW)), "all books again", limit_s=120)
        books_go_on(up)
        note("all books are synced again")

        listed = time.monotonic()
        remove(up, pending)
        wait_for(lambda: valued(up) == ASSETS, "the new asset's index", limit_s=LISTED_S)
        took_s = time.monotonic() - listed
        assert took_s < LISTED_S
        note(f"the listing is in the index after {took_s:.1f} s")
        wait_for(lambda: all_synced(up, VENUES), "all books with the listing")
        wait_for(partial(healthy, up), "a healthy status", limit_s=90)
        note("healthy")

        # the other exchanges had no part in it, nothing was restarted, and no error was our own
        others = QUOTES.keys() - set(FAULTY)
        assert {one: total(up, one, "disconnects") for one in others} == dict.fromkeys(others, 0)
        assert up.pids() == pids
        assert up.control("GET")["counters"]["task_failures"] == 0
        assert up.stop() == 0
        wait_for(lambda: not any(map(alive, pids.values())), "the end of every process")
        own = {name: own_errors(tmp_path, name) for name in pids}
        assert not {name: errors for name, errors in own.items() if errors}
    with Database(tmp_path):
        applied(Settings(data=tmp_path))
        until_ms = time.time_ns() // 1_000_000
        done = up.run("reconcile", "--json", "--from", str(began_ms), "--to", str(until_ms))
    report = orjson.loads(done.stdout)
    found = report["total"]
    note(f"reconciled: {found}")
    assert (found["unexplained"], found["dead"], found["open"]) == (0, 0, 0), found
    assert found["stored"] > 0
    # no published message is lost; a simulated exchange reports only its newest 500 trades, so
    # that some of a longer silence never arrive, which is counted
    lost = {line["topic"]: line["lost"] for line in report["lines"] if line["lost"]}
    assert all(topic.startswith(tuple(f"trade.{one}." for one in FAULTY)) for topic in lost), lost
    assert done.returncode == 0


class Notes:
    """Prints what is done, with the seconds since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:6.1f} s  {text}")


def of_asset(asset: str) -> set[str]:
    return {one for one in VENUES if one.partition(":")[2].startswith(f"{asset}/")}


def valued(up: Platform) -> set[str]:
    """Return the assets whose index has a value, as each is asked for by its own address."""
    found = {asset: up.get(f"/v1/indices/{asset}") for asset in ASSETS}
    return {asset for asset, one in found.items() if one and one["value"] is not None}


def all_synced(up: Platform, venues: set[str]) -> bool:
    found = (up.get("/v1/venues") or {"venues": []})["venues"]
    return venues <= {one["venue"] for one in found if one["state"] == "synced"}


def healthy(up: Platform) -> bool:
    return up.run("status", "--json").returncode == 0


# counters of collectors


def counters(data: Path, name: str) -> dict[str, float]:
    found: dict[str, float] = orjson.loads((data / "run" / f"{name}.json").read_bytes())["counters"]
    return found


def total(up: Platform, exchange: str, counter: str) -> float:
    names = [f"{stream}-collector-{exchange}" for stream in ("orderbook", "ticker")]
    return sum(counters(up.data, name).get(counter, 0) for name in names)


def settled(up: Platform, exchanges: Iterable[str]) -> bool:
    """Return whether all markets of exchanges are complete, but for halted ones."""
    return not any(total(up, one, "unsynced") for one in exchanges)


def own_errors(data: Path, name: str) -> dict[str, float]:
    """Return the counters of a process that show errors of CoinSpace itself."""
    ours = {*ERRORS, "loop_errors", "task_restarts", "health_failures", "flush_defects"}
    ours |= {"errors", 'connection_failures{cause="internal"}'}
    return {key: n for key, n in counters(data, name).items() if key in ours and n}


def each(up: Platform, counter: str) -> dict[str, float]:
    return {one: total(up, one, counter) for one in FAULTY}


def rose(up: Platform, counter: str, before: dict[str, float], more: int = 1) -> bool:
    return all(now >= before[one] + more for one, now in each(up, counter).items())


def books_go_on(up: Platform) -> None:
    before = each(up, "books_published")
    wait_for(partial(rose, up, "books_published", before, 20), "books of both exchanges go on")


# faults


def filled(specs: Iterable[str]) -> list[str]:
    """Return faults of each of the two exchanges, or of all exchanges where none is named."""
    found = [spec.format(name, quote=QUOTES[name]) for spec in specs for name in FAULTY]
    return list(dict.fromkeys(found))


def add(up: Platform, specs: Iterable[str]) -> set[int]:
    return {up.control("POST", "/faults", {"fault": spec})["id"] for spec in specs}


def remove(up: Platform, ids: Iterable[int]) -> None:
    for number in ids:
        up.control("DELETE", f"/faults/{number}")


def without_effect(up: Platform, ids: set[int]) -> list[str]:
    faults: list[dict[str, Any]] = up.control("GET", "/faults")
    return [
        one["fault"] for one in faults if one["id"] in ids and one["hits"] < wanted(one["fault"])
    ]


def wanted(spec: str) -> int:
    """Return how often a fault is to take effect: its count, or once."""
    _, count, rest = spec.partition("count=")
    return int(rest.partition(":")[0]) if count else 1


def took_effect(up: Platform, ids: set[int]) -> bool:
    return not without_effect(up, ids)


def apply(up: Platform, specs: Iterable[str], limit_s: float = 60.0) -> None:
    """Put faults in force until each has taken effect."""
    ids = add(up, specs)
    wait_for(
        partial(took_effect, up, ids),
        f"an effect of {', '.join(specs)}",
        limit_s=limit_s,
        shown=partial(without_effect, up, ids),
    )
    remove(up, ids)


def limited(kind: str) -> str:
    return f"{kind}:{{}}:channel=orderbook" if kind in OF_BOOKS else f"{kind}:{{}}"


def check_frames(up: Platform, note: Notes) -> None:
    for kind, options in FRAMES.items():
        apply(up, filled([f"{limited(kind)}:{options}"]))
    note("faults of frames, one after another")
    together = {"huge": ":bytes=100000"}
    apply(up, filled(f"{limited(one)}:p=0.05{together.get(one, '')}" for one in FRAMES))
    wait_for(partial(settled, up, FAULTY), "books after faults of frames", limit_s=90)
    note("faults of frames, all together")


def check_lost_links(up: Platform, note: Notes) -> None:
    for kind, options in LOST_LINKS.items():
        before = each(up, "disconnects")
        ids = add(up, filled([f"{kind}:{{}}:{options}"]))
        wait_for(
            partial(rose, up, "disconnects", before),
            f"an end of connections by {kind}",
            limit_s=90,
        )
        assert took_effect(up, ids)
        remove(up, ids)
        wait_for(partial(settled, up, FAULTY), f"books after {kind}", limit_s=60)
        note(f"{kind} of connections")


def check_refused_links(up: Platform, note: Notes) -> None:
    """Connections of both exchanges end; each of the next attempts meets one fault."""
    for specs in REFUSED_LINKS:
        ids = add(up, filled(specs))
        cut = add(up, filled(["cut:{}:count=2"]))
        wait_for(
            partial(took_effect, up, ids | cut),
            "an effect on new connections",
            limit_s=90,
            shown=partial(without_effect, up, ids),
        )
        remove(up, ids | cut)
        wait_for(partial(settled, up, FAULTY), "books after refused connections", limit_s=90)
        note(f"{', '.join(one.partition(':')[0] for one in specs)} of new connections")
