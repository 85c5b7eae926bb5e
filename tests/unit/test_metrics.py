"""Metrics: names, types and units of Prometheus, and an HTTP server that disturbs nobody."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio

from coinspace._ext.latency import BOUNDS_S, Latency
from coinspace._ext.lines import Lines
from coinspace._ext.message import INDEX, ORDERBOOK, REPEAT, REST, STATE
from coinspace._ext.sink import ListSink
from coinspace.config import PROCESSES, MetricsSettings, Settings
from coinspace.exporter import CONNECTIONS_LIMIT, Exporter
from coinspace.metrics import METRICS, SAMPLES_LIMIT, _known, as_health, exposition
from coinspace.process import Process, target_path
from tests.waiting import until

SECOND = 1_000_000_000
PROCESS = "ticker-collector-upbit"


def health(**counters: Any) -> dict[str, Any]:
    facts = {"process": PROCESS, "state": "ready", "started_ns": SECOND, "updated_ns": 3 * SECOND}
    return facts | {"counters": counters}


def lines(*healths: dict[str, Any]) -> list[str]:
    return exposition(healths, 5 * SECOND).decode().splitlines()


def value(name: str, found: list[str]) -> str:
    (text,) = [line.rpartition(" ")[2] for line in found if line.startswith(name)]
    return text


def test_names_types_and_units_are_those_of_prometheus() -> None:
    for metric in METRICS.values():
        assert re.fullmatch(r"(coinspace|process)_[a-z0-9_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        # base units only
        assert not re.search(r"_(ms|us|s|ns|kb|mb)(_|$)", metric.name), metric.name
        assert metric.help.endswith(".")
    assert len({metric.name for metric in METRICS.values()}) == len(METRICS)


def test_counters_become_metrics_in_base_units() -> None:
    found = lines(health(**{"flush_ms": 12.5, 'stored{kind="trade"}': 7, "cpu_s": 1.5}))
    process = f'process="{PROCESS}"'
    assert f"coinspace_flush_seconds{{{process}}} 0.0125" in found
    assert f'coinspace_stored_total{{{process},kind="trade"}} 7' in found
    assert f"process_cpu_seconds_total{{{process}}} 1.5" in found
    assert "# TYPE coinspace_flush_seconds gauge" in found
    assert "# TYPE coinspace_stored_total counter" in found
    assert value("coinspace_health_age_seconds", found) == "2.0"
    assert value("process_start_time_seconds", found) == "1.0"


def test_each_name_has_one_help_and_type_over_all_processes() -> None:
    found = lines(*(health(gaps=n) | {"process": name} for n, name in enumerate("abc")))
    heads = [line for line in found if line.startswith("# TYPE ")]
    assert len(heads) == len(set(heads)) == len({line.split()[2] for line in heads})
    at = found.index("# TYPE coinspace_gaps_total counter")
    assert found[at + 1 : at + 4] == [
        f'coinspace_gaps_total{{process="{name}"}} {n}' for n, name in enumerate("abc")
    ]


@pytest.mark.parametrize(
    "counter",
    [
        ("not_declared", 1),
        ('gaps{market="a"b"}', 1),
        ('gaps{market="a\nb"}', 1),
        ("gaps 1\ngaps", 1),
        ("gaps", "7"),
        ("gaps", None),
    ],
)
def test_what_cannot_be_a_metric_is_left_out_and_counted(counter: tuple[str, Any]) -> None:
    found = lines(health(**{counter[0]: counter[1], "frames": 3}))
    assert value("coinspace_metrics_left_out", found) == "1"
    assert value("coinspace_frames_total", found) == "3"
    assert not [line for line in found if line.startswith("coinspace_gaps")]


def test_labels_are_bounded() -> None:
    many = {f'market_frames{{market="M{n}/KRW"}}': n for n in range(SAMPLES_LIMIT + 5)}
    found = lines(health(**many))
    assert sum(line.startswith("coinspace_market_frames_total{") for line in found) == SAMPLES_LIMIT
    assert value("coinspace_metrics_left_out", found) == "5"


def test_a_long_label_is_left_out_and_not_kept() -> None:
    kept = _known.cache_info().currsize
    found = lines(health(**{f'market_frames{{market="{"M" * 10_000}"}}': 1}))
    assert value("coinspace_metrics_left_out", found) == "1"
    assert _known.cache_info().currsize == kept


@pytest.mark.parametrize(
    "damage",
    [
        {"counters": None},
        {"updated_ns": "x"},
        {"latency": {"leg": 1}},
        {"latency": {"leg": {"counts": [1]}}},
        {"latency": [1]},
    ],
)
def test_a_damaged_health_file_hides_no_other(damage: dict[str, Any]) -> None:
    found = lines(health(gaps=1) | damage, health(gaps=2) | {"process": "good"})
    assert [line for line in found if line.startswith("coinspace_gaps_total")] == [
        'coinspace_gaps_total{process="good"} 2'
    ]


def test_latencies_are_cumulative_histograms() -> None:
    latency = Latency()
    for ns in (-5, 10_000, 10_001, 2 * SECOND, 10**18):
        latency.observe(ns)
    found = lines(health() | {"latency": as_health({"leg": latency})})
    buckets = [int(line.rpartition(" ")[2]) for line in found if "_bucket{" in line]
    assert len(buckets) == len(BOUNDS_S) + 1
    assert buckets == sorted(buckets)
    assert (buckets[0], buckets[1], buckets[-1]) == (2, 3, 5)
    assert value("coinspace_latency_seconds_count", found) == "5"
    # a time years ago counts as an hour
    assert float(value("coinspace_latency_seconds_sum", found)) == pytest.approx(3602, abs=0.1)
    assert latency.take_least_ns() == -5
    assert latency.take_least_ns() is None


def test_a_publisher_measures_the_legs_of_live_messages() -> None:
    sink = ListSink(clock=lambda: 10 * SECOND)
    book, state = sink.topic(b"orderbook.upbit.A/B."), sink.topic(b"state.upbit.A/B.")
    times = {"received_ns": 9 * SECOND, "exchange_ns": 7 * SECOND}
    sink.publish(book, ORDERBOOK, b"", **times)
    assert (sink.transit.total_s, sink.publishing.total_s) == (2, 1)
    # a repeated book has the time of its last change; what REST fetched is old
    sink.publish(book, ORDERBOOK, b"", flags=REPEAT, **times)
    sink.publish(book, ORDERBOOK, b"", flags=REST, **times)
    sink.publish(state, STATE, b"{}", received_ns=9 * SECOND)
    sink.publish(sink.topic(b"index.A."), INDEX, b"{}", received_ns=9 * SECOND)
    assert (sum(sink.transit.counts), sum(sink.publishing.counts)) == (1, 3)


def test_rows_measure_the_time_until_they_are_stored() -> None:
    sink = ListSink(clock=lambda: 10 * SECOND)
    rows, latency = Lines(), Latency()
    for _ in range(200):
        sink.publish(sink.topic(b"orderbook.upbit.A/B."), ORDERBOOK, b"", received_ns=1)
        rows.orderbook(b"orderbook ", sink.messages[-1], 30)
    rows.stored(latency, 12 * SECOND)
    assert (sum(latency.counts), latency.total_s) == (200, 400)
    rows.clear()
    rows.stored(latency, 12 * SECOND)
    assert sum(latency.counts) == 200


def test_ports_follow_the_order_of_the_processes() -> None:
    assert MetricsSettings().port_of(PROCESSES[3]) == 0
    chosen = MetricsSettings(port=9500)
    assert [chosen.port_of(name) for name in PROCESSES] == list(range(9500, 9500 + len(PROCESSES)))
    assert chosen.port_of("another") == 0


class Scraper:
    """A connection to an exporter."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def ask(
        self, request: str = "GET /metrics HTTP/1.1", host: str = "localhost:9"
    ) -> tuple[str, bytes]:
        self.writer.write(f"{request}\r\nHost: {host}\r\n\r\n".encode())
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        size = int(head.lower().partition("content-length: ")[2].partition("\r")[0])
        body = b"" if request.startswith("HEAD") else await self.reader.readexactly(size)
        return head.split("\r\n")[0], body


class Site:
    """An exporter and connections to it, which end with the test."""

    def __init__(self) -> None:
        self.exporter = Exporter(lambda: b"text\n")
        self.scrapers: list[Scraper] = []

    async def scraper(self) -> Scraper:
        assert self.exporter.address is not None
        host, _, port = self.exporter.address.rpartition(":")
        self.scrapers.append(Scraper(*await asyncio.open_connection(host, int(port))))
        return self.scrapers[-1]


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    found = Site()
    await found.exporter.start("127.0.0.1", 0)
    yield found
    found.exporter.close()
    for one in found.scrapers:
        one.writer.close()
        with contextlib.suppress(ConnectionError):
            await one.writer.wait_closed()


async def test_an_exporter_answers_on_loopback(site: Site) -> None:
    scraper = await site.scraper()
    for _ in range(3):
        assert await scraper.ask() == ("HTTP/1.1 200 OK", b"text\n")
    assert await scraper.ask("HEAD /metrics HTTP/1.1") == ("HTTP/1.1 200 OK", b"")
    assert await scraper.ask("GET /metrics?a=b HTTP/1.1") == ("HTTP/1.1 200 OK", b"text\n")
    assert (await scraper.ask("GET / HTTP/1.1"))[0] == "HTTP/1.1 404 Not Found"
    assert await scraper.reader.read() == b""
    assert site.exporter.scrapes == 5


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
        ("GET /metrics HTTP/1.0", "200 OK"),
        ("nonsense", "405 Method Not Allowed"),
    ],
)
async def test_other_methods_and_old_clients_end_the_connection(
    site: Site, request_line: str, status: str
) -> None:
    scraper = await site.scraper()
    assert (await scraper.ask(request_line))[0] == f"HTTP/1.1 {status}"
    assert await scraper.reader.read() == b""


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", "200 OK"),
        ("[::1]:9400", "200 OK"),
        ("LOCALHOST", "200 OK"),
        ("evil.example", "421 Misdirected Request"),
        ("localhost.evil.example:80", "421 Misdirected Request"),
        ("127.0.0.1.evil.example", "421 Misdirected Request"),
        ("", "421 Misdirected Request"),
    ],
)
async def test_a_web_page_cannot_read_metrics_under_its_own_name(
    site: Site, host: str, status: str
) -> None:
    assert (await (await site.scraper()).ask(host=host))[0] == f"HTTP/1.1 {status}"


async def test_requests_beyond_the_limit_are_not_answered(site: Site) -> None:
    scraper = await site.scraper()
    scraper.writer.write(b"HEAD /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 10_000)
    with contextlib.suppress(ConnectionError):
        await scraper.reader.read()
    assert site.exporter.refused == 1
    assert site.exporter.scrapes < 1000


async def test_connections_and_requests_are_bounded(site: Site) -> None:
    scrapers = [await site.scraper() for _ in range(CONNECTIONS_LIMIT)]
    for scraper in scrapers:
        assert (await scraper.ask())[1] == b"text\n"
    refused = await site.scraper()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await refused.ask()
    scrapers[0].writer.write(b"G" * 100_000)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await scrapers[0].reader.readexactly(1)
    assert site.exporter.refused == 2
    # the others are still served
    assert (await scrapers[1].ask())[1] == b"text\n"


async def test_a_last_answer_that_is_not_read_does_not_keep_its_connection(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coinspace.exporter.IDLE_S", 0.05)
    site.exporter.text = lambda: b"x" * (16 << 20)
    scraper = await site.scraper()
    scraper.writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
    await until(lambda: site.exporter.scrapes, "a scrape")
    await until(lambda: not site.exporter.open, "the end of the connection")


async def test_many_scrapes_read_the_counters_once(site: Site, tmp_path: Path) -> None:
    process = Process("orderbook-aggregator", Settings(data=tmp_path))
    (tmp_path / "run").mkdir()
    reads = 0

    def counters() -> dict[str, int | float]:
        nonlocal reads
        reads += 1
        return {"ticks": reads}

    process.counters = counters
    process.write_health()
    await process._announce()
    target = orjson.loads(target_path(process.settings, process.name).read_bytes())
    address = process.exporter.address
    assert target == [{"targets": [address], "labels": {"instance": process.name}}]
    site.exporter.close()
    site.exporter = process.exporter
    scrapers = [await site.scraper() for _ in range(10)]
    bodies = {(await scraper.ask())[1] for scraper in scrapers for _ in range(5)}
    assert len(bodies) == reads == 1
    assert b'coinspace_ticks_total{process="orderbook-aggregator"} 1\n' in bodies.pop()
    process.write_health()
    assert (
        b'coinspace_ticks_total{process="orderbook-aggregator"} 2\n' in (await scrapers[0].ask())[1]
    )
    process.withdraw()
    assert not target_path(process.settings, process.name).exists()


async def test_a_taken_port_is_tried_again(site: Site, tmp_path: Path) -> None:
    assert site.exporter.address is not None
    port = int(site.exporter.address.rpartition(":")[2])
    settings = Settings(data=tmp_path, metrics=MetricsSettings(port=port))
    process = Process(PROCESSES[0], settings)
    await process._announce()
    assert not target_path(settings, process.name).exists()
    site.exporter.close()
    # the loop closes the socket in one of its next rounds
    while not target_path(settings, process.name).exists():
        await asyncio.sleep(0)
        await process._announce()
    assert process.exporter.address == f"127.0.0.1:{port}"
    process.withdraw()
