"""A check of stored records: they are computed again from archived feeds and compared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import orjson

from coinspace.clock import SECOND_NS, now_ns
from coinspace.collector.commands import quiet_logs
from coinspace.config import IndexParameters, Settings, index_parameters
from coinspace.errors import CoinSpaceError
from coinspace.index.chain import DAY_NS
from coinspace.index.memory import read_fx_memory, read_reference_memory, remember
from coinspace.index.store import store
from coinspace.method.parameters import parameter_hash
from coinspace.recompute.feeds import sources
from coinspace.recompute.offline import FeedReplay
from coinspace.recompute.verify import RecordComparison, Verification, recalc_row
from coinspace.recording.format import FeedReader
from coinspace.storage import schema
from coinspace.storage.questdb.address import address
from coinspace.storage.read import announced, records
from coinspace.storage.records import Row, tick_ns
from coinspace.storage.schema import Connection

# recomputed before the first compared tick, for memory that is not stored
WARM_UP_NS = 120 * SECOND_NS


@dataclass(frozen=True, slots=True)
class Restatement:
    """Who writes rows to index_recalc, and why."""

    operator: str
    because: str


def verify(
    settings: Settings,
    folder: Path,
    bounds: tuple[int, int],
    assets: list[str],
    restatement: Restatement | None = None,
) -> Verification:
    """Compute the ticks in [from, to) again and compare them with the stored records.

    Raises: CoinSpaceError without feeds or a grid of ticks, StorageError when the database cannot
        answer.
    """
    if settings.index.interval_ms == 0:
        raise CoinSpaceError(
            "index.interval_ms: expected the interval of the ticks to verify, was 0: at 0, the"
            " updates behind a tick are not recorded"
        )
    quiet_logs()
    settings.index.assets = assets
    start_ns, end_ns = bounds
    # recordings of tickers contain no books
    found = sorted(one for one in folder.rglob("*.feed*") if "-ticker-" not in one.name)
    paths = tuple(one for one in found if _begins_ns(one) < end_ns)
    if not paths:
        raise CoinSpaceError(
            f"--feeds {folder}: expected *.feed or *.feed.zst files that begin before --to, found"
            f" none among {len(found)} feeds"
        )
    warm_ns = start_ns - WARM_UP_NS
    with schema.connect(address(settings)) as connection:
        parameters = in_force(connection, settings, assets, bounds)
        # an asset of a pattern has had an index since it was listed
        since = {
            asset: ns
            for asset, ns in announced.first_definitions(connection).items()
            if settings.index.is_shared(asset)
        }
    # all assets share the rate's parameters, and no asset may override them
    settings.index.parameters = parameters[assets[0]]
    settings.index.overrides = {
        asset: {name: value for name, value in own.model_dump().items() if name[:3] != "fx_"}
        for asset, own in parameters.items()
    }
    readers, make = sources(paths, settings, segments=True)
    with schema.connect(address(settings)) as connection:
        comparison = RecordComparison(connection, assets, start_ns, end_ns, warm_ns)
        replay = FeedReplay(
            settings,
            make,
            settings.index.parameters_of,
            lambda record, _: comparison.take(record),
            start_ns=warm_ns,
            end_ns=end_ns,
            guide=comparison.stored,
            since=since,
        )
        for asset in assets:
            remember(connection, replay.calculator.index(asset), warm_ns)
        window_ns = int(settings.index.parameters.fx_window_s * SECOND_NS)
        memory = read_fx_memory(connection, assets[0], warm_ns, window_ns)
        if settings.rates.sources:
            memory["usd_krw"] = read_reference_memory(connection, assets[0], warm_ns)
        replay.aggregator.restore(memory)
        replay.run(readers)
        verdict = comparison.finish()
    if restatement is not None:
        verdict.restated = _restate(settings, comparison, restatement)
    return verdict


def in_force(
    connection: Connection,
    settings: Settings,
    assets: list[str],
    bounds: tuple[int, int],
) -> dict[str, IndexParameters]:
    """Return the parameters with which the stored ticks of a range were made.

    They come from the stored definition when all ticks of an asset have the hash of another
    definition, since defaults may have changed. Otherwise they come from the settings.
    """
    depths = settings.depths
    found = {}
    for asset in assets:
        now = found[asset] = settings.index.parameters_of(asset)
        hashes = records.parameter_hashes(connection, asset, *bounds)
        if len(hashes) != 1 or parameter_hash(now, depths) in hashes:
            continue
        text = announced.definition(connection, asset, hashes.pop())
        if text is not None:
            definition = orjson.loads(text)
            found[asset] = index_parameters(definition["parameters"], f"index of {asset}")
    return found


def _begins_ns(path: Path) -> int:
    with FeedReader(path) as reader:
        return int(reader.header.get("started_ns", 0))


def _restate(settings: Settings, comparison: RecordComparison, by: Restatement) -> int:
    now = now_ns()
    day_ns = now // DAY_NS * DAY_NS
    rows = [
        recalc_row(record, original, by.operator, by.because, now)
        for record, original in comparison.restated
        if tick_ns(record) >= day_ns
    ]
    detail = f"{len(rows)} rows: {by.because}"
    entry = {"target": "index_recalc", "detail": detail, "entry": 0}
    store(
        settings,
        [*rows, Row("operator_log", now, {"operator": by.operator, "action": "restate"}, entry)],
    )
    return len(rows)
