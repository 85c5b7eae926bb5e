"""What each process measures, for Prometheus: every name, type, unit and help text, and the format.

A process counts under short names (`frames`, `flush_ms`, `stored{kind="trade"}`) and writes them
into its health file each second. Here they become metrics: `coinspace_frames_total`,
`coinspace_flush_seconds`, `coinspace_stored_total{kind="trade"}`, each with the label `process`.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coinspace._ext.latency import BOUNDS_S, Latency
from coinspace.clock import SECOND_NS

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("starting", "ready", "degraded", "stopping", "stopped")
# samples of one metric of one process; more are left out and counted
SAMPLES_LIMIT = 2000
# of a counter with its labels, as another host sends it
KEY_LENGTH = 1000
PAGE_BYTES = resource.getpagesize()
# what reading a damaged health file can raise
DAMAGED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

# name in the health file -> help; exported as coinspace_NAME_total
COUNTERS = {
    # every process
    "takeovers": "Times that the process took over from the one before it.",
    "health_failures": "Health files that could not be written.",
    "counter_failures": "Failed readings of the process's counters.",
    "loop_errors": "Callbacks of the event loop that failed.",
    "task_restarts": "Background tasks that failed and were started again.",
    "host_clock_steps": "Steps of the host's wall clock.",
    "log_lines_lost": "Log lines that could not be written.",
    "metrics_scrapes": "Answered scrapes of this process.",
    "metrics_refused": "Connections and requests of scrapers that were refused.",
    # publishers
    "published": "Messages published on the bus.",
    "dropped": "Messages dropped because a subscriber's queue was full.",
    "journal_written": "Messages written to the journal.",
    "journal_skipped": "Messages published without being journalled.",
    "journal_segments_removed": "Journal segments removed by age or size.",
    "journal_requests": "Requests for journalled messages that were answered.",
    "journal_refused": "Requests for journalled messages that were refused.",
    # streams on NATS
    "stream_batches": "Batches that the stream has acknowledged, or that were taken from it.",
    "stream_messages": "Messages in these batches.",
    "stream_bytes": "Bytes of the journal in these batches.",
    "stream_retries": "Failed attempts to send to the stream or to read it.",
    "stream_oversized": "Messages too large for the stream; they are fetched from the journal.",
    "stream_lost": "Messages that the journal had removed before they could be sent.",
    "stream_rewinds": "Times that the stream had lost messages, which were sent again.",
    "stream_malformed": "Batches of the stream that could not be read.",
    "stream_confirmed": "Batches whose rows are stored.",
    # subscribers
    "received": "Messages received from the bus.",
    "gaps": "Gaps found: in the bus's messages, or in the updates of books.",
    "missed": "Messages of the bus that did not arrive.",
    "repeated": "Messages or index ticks that came twice.",
    "conflated": "Messages replaced by a newer one before they were handled.",
    "malformed": "Frames or messages that could not be read.",
    "frames_refused": "Binary frames that were refused or ignored, by reason.",
    "callback_errors": "Internal errors while a message was handled.",
    "bus_received": "Messages received from the bus.",
    "bus_gaps": "Gaps found in the bus's messages.",
    "bus_missed": "Messages of the bus that did not arrive.",
    "bus_repeated": "Messages of the bus that came twice.",
    "bus_conflated": "Messages replaced by a newer one before they were handled.",
    "bus_malformed": "Messages of the bus that could not be read.",
    "bus_callback_errors": "Internal errors while a message was handled.",
    # collectors: frames
    "frames": "Frames received from the exchange.",
    "market_frames": "Books, tickers and trades received, by market.",
    "messages": "Books, tickers and trades read from frames, or messages taken from the bus.",
    "ignored": "Messages of the exchange that are not needed.",
    "unknown_symbols": "Messages of markets that are not collected.",
    "controls": "Frames without market data.",
    "levels_dropped": "Book levels beyond the room for them.",
    "template_misses": "Frames that needed the general parser.",
    "grouped_frames": "Frames with grouped book levels.",
    "backwards": "Messages older than the one before.",
    "clock_steps": "Steps of the exchange's or the host's clock.",
    "failures": "Frames that failed by an internal error.",
    # collectors: connections
    "connects": "Connections to the exchange that were opened.",
    "disconnects": "Connections to the exchange that ended.",
    "connect_failures": "Failed dials.",
    "connection_failures": "Failed dials and ended connections, by cause.",
    "replacements": "Connections replaced by a new one.",
    "corrected": "Published books with newer best prices than those of their updates.",
    "resubscribed": "Books that were subscribed again, so that the exchange sends them whole.",
    "flawed": "Frames of a book with a level that could not be read.",
    "early_updates": "Updates that came before their book.",
    "bad_tops": "Best prices that cannot be true.",
    "links_confirmed": "Updates that the second link brought as well, with the same content.",
    "links_disagreed": "Updates of the same ids with another content on the second link.",
    "links_unmatched": "Updates of the second link that were not compared.",
    "differing": "Trades that came twice, with another price, size or side.",
    "keys_refused": "Connections that go on without the API key, because it was refused.",
    "error_frames": "Errors sent by the exchange.",
    "acks": "Subscriptions confirmed by the exchange.",
    "shutdowns": "Shutdowns announced by the exchange.",
    "first_frame_timeouts": "Subscriptions without a first frame in time.",
    "stale": "Markets that became stale.",
    "impossible_changes": "State changes of markets that must not happen.",
    "listing_events": "Changes of the exchange's list of markets.",
    # collectors: REST
    "requests": "REST requests of a collector, or HTTP requests of the endpoint.",
    "refused_requests": "REST requests that failed or were refused.",
    "unreadable_answers": "REST answers that could not be read.",
    "rest_answers": "REST requests that the exchange answered.",
    "rest_refusals": "REST requests that the exchange refused.",
    "rest_failures": "REST requests without an answer.",
    "rest_dropped": "REST requests dropped because their queue was full.",
    "rest_repeated": "REST requests that were waiting already.",
    "rest_oversized": "REST answers that were too large.",
    "rest_errors": "Internal errors in REST requests.",
    "rest_budget_waits": "Waits for the request limit of the IP address.",
    # collectors: books
    "books_published": "Books published on the bus.",
    "applied": "Books and updates of books that were applied.",
    "repeats": "Books identical to the one before.",
    "outdated": "Updates that the book already contained.",
    "crossed": "Books whose best prices crossed.",
    "overlap_skipped": "Updates of a second connection that were ahead of the book.",
    "bad_ids": "Updates with impossible ids.",
    "bad_times": "Books with an impossible time.",
    "resyncs": "Books that were dropped and fetched again.",
    "snapshots": "Snapshots that began a book.",
    "refreshes": "Snapshots that replaced a book in use.",
    "ranges_left": "Books whose price left the known range.",
    "stale_snapshots": "Snapshots older than the updates.",
    "buffered": "Updates kept for a snapshot.",
    "buffer_dropped": "Kept updates dropped because too many waited.",
    "deepened": "Books that got a deeper snapshot.",
    "truncated_updates": "Updates with more levels than there is room for.",
    "compares": "Books compared with REST.",
    "unmatched": "Books of REST that no stream book could be compared with.",
    "confirmed": "Books confirmed by REST.",
    "doubts": "Comparisons without a result.",
    "drifts": "Books that differed from REST and were fetched again.",
    "suspected": "Books suspected of an error.",
    # collectors: tickers and trades
    "tickers": "Tickers published on the bus.",
    "ticker_repeats": "Tickers identical to the one before.",
    "tickers_refused": "Tickers with impossible values.",
    "trades": "Trades published on the bus.",
    "trades_by_rest": "Trades fetched by REST.",
    "duplicates": "Trades received twice.",
    "trades_refused": "Trades with impossible values.",
    "trades_refused_price": "Trades with an impossible price.",
    "trades_refused_size": "Trades with an impossible size.",
    "trades_refused_id": "Trades with an impossible id.",
    "trades_refused_past": "Trades with a time too far in the past.",
    "trades_refused_future": "Trades with a time too far in the future.",
    "id_restarts": "Restarts of the exchange's trade ids.",
    "trade_gaps": "Gaps found in trades.",
    "trades_missing": "Trades found missing.",
    "trades_filled": "Missing trades fetched by REST.",
    "trades_lost": "Missing trades that the exchange no longer has.",
    "audits": "Volumes compared after a connection.",
    "trades_remembered": "Trades known from before the start.",
    "volume_gaps": "Volumes that the published trades do not explain.",
    "volume_unexplained": "Missing volumes for which REST had no trades.",
    # sources of USD/KRW
    "rate_answers": "Quotations that a source gave.",
    "rate_refused": "Requests that gave no quotation, by source and reason.",
    "rates_held": "Times that quotations jumped or differed without a confirmation.",
    "quotations_refused": "Quotations of the bus that were unreadable, old or of another source.",
    # facts beside the price
    "fact_answers": "Answers with facts beside the price.",
    "fact_answers_refused": "Requests that gave no facts beside the price, by reason.",
    "fact_rows_unread": "Rows left out of those answers because they could not be read.",
    "facts_published": "Messages of facts beside the price.",
    # recorders
    "recorded": "Frames recorded.",
    "record_dropped": "Frames not recorded because the queue was full.",
    "record_lost": "Frames not recorded because the disk refused them.",
    "record_errors": "Errors while recording.",
    "record_segments": "Recording files begun.",
    "record_segments_removed": "Recording files removed.",
    # storage
    "stored": "Messages given to the database, by kind.",
    "thinned": "Messages that the storage policy leaves out, by kind.",
    "shed": "Messages left to the journals because memory was full.",
    "already_stored": "Messages that were stored already.",
    "malformed_rows": "Messages with values that cannot be stored.",
    "gaps_put_off": "Gaps beyond the number that is filled at a time.",
    "messages_missed": "Published messages that did not arrive.",
    "outages_dropped": "Outages not recorded because memory was full.",
    "rows_taken": "Rows given to the database's sender.",
    "rows_stored": "Rows that the database has acknowledged.",
    "rows_refused": "Rows refused because memory was full.",
    "rows_dead": "Rows that the database refused.",
    "batches": "Batches of rows that were stored.",
    "flush_retries": "Batches that had to be sent again.",
    "flush_defects": "Batches that failed by an internal error.",
    "schema_repairs": "Repairs of the database's tables.",
    "catchup_requests": "Requests to journals.",
    "catchup_failures": "Requests to journals that failed.",
    "catchup_messages": "Messages fetched from journals.",
    "gaps_filled": "Gaps whose messages are stored now.",
    "messages_lost": "Missing messages that no journal has.",
    # the database's keeper
    "restarts": "Restarts of the private database server.",
    "hung_probes": "Probes that the database server did not answer.",
    "killed": "Database servers that had to be killed.",
    # aggregator and calculator
    "unknown_markets": "Messages of markets that no index needs.",
    "late": "Messages or aggregates that came after their tick.",
    "ticks": "Ticks made.",
    "ticks_skipped": "Ticks left out after a pause.",
    "ticks_repeated": "Ticks that were already made.",
    "coalesced": "Updates that shared a tick.",
    "clock_ahead": "Messages with a time in the future.",
    "waiting_overflow": "Messages applied early because too many waited.",
    "nulls": "Index ticks without a value.",
    "not_computed": "Index ticks without an aggregate.",
    "skipped": "Index ticks without a record.",
    "refused_aggregates": "Aggregates of unknown assets or with impossible times.",
    "malformed_aggregates": "Aggregates that could not be read.",
    "records_refused": "Index records that could not be kept.",
    "records_spooled": "Index records kept on disk for the database.",
    "records_torn": "Index records cut short by a crash or a full disk.",
    # endpoint
    "refused": "Messages of the bus that were refused.",
    "requests_refused": "HTTP requests refused for missing rights or a wrong form.",
    "requests_limited": "HTTP requests over a rate limit.",
    "requests_unreadable": "HTTP requests that could not be read.",
    "connections_rejected": "Connections over a limit.",
    "connections_late": "Connections whose request came too late.",
    "connections_unread": "Connections whose client did not read.",
    "streams_opened": "Streams that were opened.",
    "streams_left": "Streams that the client ended.",
    "streams_dropped": "Streams dropped because the client did not read.",
    "streams_refused": "Streams over the limit.",
    "stream_events": "Events made for streams.",
    "stream_deliveries": "Events sent to clients.",
    "stream_conflated": "Events replaced by newer ones for slow clients.",
    "stream_resumed": "Streams that resumed where they ended.",
    "stream_gaps": "Streams that could not resume without a gap.",
    "queries": "Queries of the database.",
    "query_failures": "Queries that failed.",
    "query_timeouts": "Queries that took too long.",
    "query_seconds": "Time spent in queries.",
    # alerter
    "alerts_overflow": "Alerts left out because too many stand.",
    "alerts_dropped": "Alerts dropped because too many waited for a target.",
    "alert_messages": "Messages that a target has taken.",
    "alert_attempts": "Attempts to deliver a message.",
    "alert_failures": "Attempts to deliver a message that failed.",
    "alert_messages_undelivered": "Messages that were given up.",
    "reloads": "Times that the configuration was read again.",
    "reloads_refused": "New configurations that were refused.",
    # in bytes and seconds
    "cpu_s": "Processor time used.",
    "bytes": "Bytes of frames received from the exchange.",
    "received_bytes": "Bytes of messages received from the bus.",
    "bus_received_bytes": "Bytes of messages received from the bus.",
    "journal_bytes": "Bytes written to the journal.",
    "record_bytes": "Bytes of recordings written.",
}
# exported as coinspace_NAME
GAUGES = {
    "journal_stopped": "1 while messages are not journalled.",
    "publishers_unheard": "Publishers without a heartbeat since the start.",
    "bus_publishers_unheard": "Publishers without a heartbeat since the start.",
    "rest_waiting": "REST requests that are wanted and not sent.",
    "rest_used": "Used part of CoinSpace's own request limit in its window, by group.",
    "rest_limit": "CoinSpace's own request limit, by group.",
    "rest_address_used": "Weight used by the IP address in this minute, as the exchange reports.",
    "rest_address_limit": "Weight per minute at which requests wait.",
    "absent_markets": "Markets that REST does not know.",
    "markets": "Markets collected.",
    "synced": "Markets whose data is complete.",
    "unsynced": "Markets whose data is not complete, without halted ones.",
    "links": "Open connections to the exchange.",
    "links_missing": "Connections of the setting links that are not open.",
    "volumes_proven": "Markets whose trades are proven complete by the volume.",
    "volume_excess": "Published volume beyond the exchange's, in base units.",
    "wallets_closed": "Collected markets whose coin cannot be deposited or withdrawn.",
    "markets_warned": "Collected markets that the exchange warns of.",
    "usd_krw": "KRW per USD; absent without a usable rate.",
    "rate_quoted": "KRW per USD of a source's last quotation.",
    "record_waiting": "Frames waiting to be written.",
    "gaps_open": "Gaps that are being filled.",
    "messages_missing": "Messages that are missing and not lost.",
    "stream_behind_bytes": "Size of the journal's segments that wait for the stream.",
    "stream_unconfirmed": "Batches taken from the stream whose rows are not stored yet.",
    "streams": "Message streams of a storage worker, or open streams of the endpoint by kind.",
    "rows_pending": "Rows taken and not yet stored.",
    "waiting": "Messages waiting for their tick.",
    "venues": "Venues of all indices.",
    "venues_usable": "Venues with a usable book.",
    "backlog_ticks": "Missed index ticks whose records are not stored yet.",
    "indices": "Indices with a record.",
    "books": "Markets with a book.",
    "connections": "Open connections of clients.",
    "stream_ring_events": "Events kept for clients that come back.",
    "open_files": "Open file descriptors.",
    "open_files_limit": "Limit of open file descriptors.",
    "alert_rules": "Rules of alerts.",
    "alerts_standing": "Alerts that have begun and not ended.",
    "alerts_pending": "Alerts whose condition has not held for long enough.",
    "alerts_waiting": "Alerts that a target has not taken yet.",
    # in bytes and seconds
    "resident_bytes": "Memory in use.",
    "virtual_bytes": "Address space in use.",
    "host_clock_step_s": "Last step of the host's wall clock; negative is back.",
    "host_clock_step_age_s": "Time since the last step of the host's wall clock.",
    "exchange_clock_offset_s": "Least time from the exchange's stamp to receipt within a minute:"
    " the network's delay and the difference of the clocks. Below 0, this host's clock is behind.",
    "clock_lead_ms": "How far a publisher's clock is ahead of this host's.",
    "journal_reach_s": "Age of the oldest message in the journal.",
    "journal_kept_bytes": "Size of the journal.",
    "journal_limit_bytes": "Size at which the journal's oldest messages are removed.",
    "rate_age_s": "Age of a source's last quotation, by the source's time.",
    "unsynced_age_s": "Time for which a market's data has not been complete, the longest.",
    "recovery_ms": "Duration of the last recovery of a book.",
    "pending_bytes": "Size of the rows taken and not yet stored.",
    "peak_bytes": "Largest size of the rows taken and not yet stored.",
    "flush_ms": "Duration of the last request to the database.",
    "oldest_pending_s": "Age of the oldest batch that is not stored yet.",
    "loop_lag_p99_ms": "Delay of the event loop within a minute, 99th percentile.",
    "loop_lag_max_ms": "Delay of the event loop within a minute, the longest.",
    "latency_us": "Time from the last tick to its index record.",
    "index_tick_age_s": "Time since the last tick of an index.",
    "index_null_age_s": "Time for which an index has had no value, 0 while it has one.",
    "history_ahead_s": "How far stored ticks lie in the future.",
    "stream_ring_bytes": "Size of the events kept for clients that come back.",
}
# names that do not follow from the name in the health file
NAMES = {
    "bytes": "coinspace_frame_bytes_total",
    "latency_us": "coinspace_index_latency_seconds",
    "counter_failures": "coinspace_reading_failures_total",
    "cpu_s": "process_cpu_seconds_total",
    "resident_bytes": "process_resident_memory_bytes",
    "virtual_bytes": "process_virtual_memory_bytes",
    "open_files": "process_open_fds",
    "open_files_limit": "process_max_fds",
}
# ending in the health file -> unit, its part of a base unit
UNITS = {"_ms": ("_seconds", 1e-3), "_us": ("_seconds", 1e-6), "_s": ("_seconds", 1)}
LATENCY = "coinspace_latency_seconds"
# the state of a process besides its counters; the histogram has each leg of a message's path
STATE_HELP = {
    "coinspace_state": "1 for the state that the process is in.",
    "coinspace_health_age_seconds": "Time since the process last wrote its counters.",
    "process_start_time_seconds": "Start of the process since 1970.",
    "coinspace_metrics_left_out": "Counters without a declaration or beyond the limit of samples.",
    LATENCY: "Time a message takes for a leg: exchange_to_received, received_to_published,"
    " published_to_aggregated, published_to_stored; tick_to_published of aggregates and records.",
}
Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One exported metric. factor: from the number in the health file to the base unit."""

    name: str
    kind: Kind
    help: str
    factor: float = 1


def _declare(short: str, kind: Kind, text: str) -> Metric:
    ending = next((one for one in UNITS if short.endswith(one)), "")
    unit, factor = UNITS.get(ending, ("", 1))
    total = "_total" if kind == "counter" else ""
    name = NAMES.get(short, f"coinspace_{short.removesuffix(ending)}{unit}{total}")
    return Metric(name, kind, text, factor)


METRICS = {
    **{short: _declare(short, "counter", text) for short, text in COUNTERS.items()},
    **{short: _declare(short, "gauge", text) for short, text in GAUGES.items()},
}
_OWN = {
    name: Metric(name, "histogram" if name == LATENCY else "gauge", text)
    for name, text in STATE_HELP.items()
}
_KEY = re.compile(r'([a-z][a-z0-9_]*)(?:\{([a-z]+="(?:[^"\\\n]|\\["\\n])*")\})?')


def own_use() -> dict[str, int | float]:
    """Return what this process uses of its host."""
    pages = Path("/proc/self/statm").read_text().split()
    # Linux 6.2 and newer report the number of descriptors as the folder's size
    files = os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))
    return {
        "cpu_s": round(time.process_time(), 3),
        "virtual_bytes": int(pages[0]) * PAGE_BYTES,
        "resident_bytes": int(pages[1]) * PAGE_BYTES,
        "open_files": files,
        "open_files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def as_health(latencies: dict[str, Latency]) -> dict[str, Any]:
    """Return the histograms of the legs for the health file."""
    return {leg: {"counts": one.counts, "sum": one.total_s} for leg, one in latencies.items()}


def label(text: object) -> str:
    """Return a text as the value of a label."""
    return str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def exposition(healths: Iterable[dict[str, Any]], now_ns: int) -> bytes:
    """Return what the health files of processes say in Prometheus' text format.

    A health file that cannot be understood is left out.
    """
    families: dict[str, tuple[Metric, list[str]]] = {}
    for health in healths:
        with contextlib.suppress(*DAMAGED):
            for metric, lines in _of_process(health, now_ns):
                families.setdefault(metric.name, (metric, []))[1].extend(lines)
    text = []
    for name, (metric, lines) in families.items():
        text += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}", *lines]
    return "\n".join([*text, ""]).encode()


def _of_process(health: dict[str, Any], now_ns: int) -> list[tuple[Metric, list[str]]]:
    """Return the lines of one process by metric."""
    process = label(health["process"])
    found: dict[str, list[str]] = {}
    left_out = 0
    for key, value in health["counters"].items():
        # a long key is not kept in the cache
        known = _known(process, key) if len(key) <= KEY_LENGTH else None
        text = _number(value) if isinstance(value, int | float) else ""
        lines = found.setdefault(known[0], []) if known else []
        if known is None or not text or len(lines) == SAMPLES_LIMIT:
            left_out += 1
            continue
        factor = METRICS[known[0]].factor
        lines.append(f"{known[1]} {text if factor == 1 else _number(value * factor)}")
    own = {
        "process_start_time_seconds": {"": health["started_ns"] / SECOND_NS},
        "coinspace_health_age_seconds": {"": max(0, now_ns - health["updated_ns"]) / SECOND_NS},
        "coinspace_state": {f',state="{one}"': int(health.get("state") == one) for one in STATES},
        "coinspace_metrics_left_out": {"": left_out},
    }
    return [
        *((METRICS[short], lines) for short, lines in found.items()),
        *(
            (
                _OWN[name],
                [
                    f'{name}{{process="{process}"{labels}}} {_number(value)}'
                    for labels, value in values.items()
                ],
            )
            for name, values in own.items()
        ),
        (_OWN[LATENCY], list(_histograms(process, health.get("latency") or {}))),
    ]


def _histograms(process: str, latencies: dict[str, Any]) -> Iterator[str]:
    for leg, one in latencies.items():
        labels, below = f'process="{process}",leg="{label(leg)}"', 0
        for bound, count in zip((*BOUNDS_S, math.inf), one["counts"], strict=True):
            below += int(count)
            yield f'{LATENCY}_bucket{{{labels},le="{_number(bound)}"}} {below}'
        yield f"{LATENCY}_sum{{{labels}}} {_number(one['sum'])}"
        yield f"{LATENCY}_count{{{labels}}} {below}"


@functools.lru_cache(maxsize=20_000)
def _known(process: str, key: str) -> tuple[str, str] | None:
    """Return a counter's short name, and its metric with labels; None when it is not declared."""
    match = _KEY.fullmatch(key)
    if match is None or match[1] not in METRICS:
        return None
    more = f",{match[2]}" if match[2] else ""
    return match[1], f'{METRICS[match[1]].name}{{process="{process}"{more}}}'


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(int(value))
    if math.isfinite(value):
        return repr(round(value, 9))
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
