"""The premium of every asset as the API shows it: summaries, rows of the live channel, trades."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from msgspec import UNSET, Struct

from coinspace.clock import MILLISECOND_NS, SECOND_NS, Clock, monotonic_ns
from coinspace.config import Settings
from coinspace.endpoint.live.facts import wallet_state
from coinspace.endpoint.live.premium_stats import BASES, PremiumStats
from coinspace.endpoint.live.premium_trades import Left, Trades, trades
from coinspace.endpoint.live.same_coin import is_known, is_questioned
from coinspace.endpoint.live.state import Latest, Live
from coinspace.endpoint.models import (
    NO_VALUE,
    PremiumBases,
    PremiumDirection,
    PremiumMoves,
    PremiumRow,
    PremiumsEvent,
    PremiumSize,
    PremiumSummary,
    PremiumTrade,
    PremiumTrades,
    PremiumUsdt,
    PremiumValue,
    PremiumVenue,
    SameCoin,
)
from coinspace.endpoint.values import decimal, price, ratio
from coinspace.exchanges.facts import Facts, Wallet, transfer
from coinspace.method.aggregate import Aggregate

# a trade of a list is at most this old, while lists are asked for
TRADE_NS = 5 * SECOND_NS
# trades that the first list waits for: 0.4 ms each
FIRST_TRADES = 100
# trades of a list are no longer made so long after the last question
ASKED_NS = 60 * SECOND_NS


def same_coin(asset: str, latest: Latest) -> SameCoin:
    """Return whether both regions trade the same coin under the asset's name."""
    if is_known(asset):
        return "known"
    coin, fiat = (latest.premium(basis) for basis in BASES)
    return "questioned" if is_questioned(asset, coin, fiat) else "assumed"


class PremiumTable:
    """The premiums of one endpoint; `stats` has their statistics."""

    def __init__(self, live: Live, settings: Settings, clock: Clock) -> None:
        self.stats = PremiumStats(live, settings.index.assets)
        self._live = live
        self._settings = settings
        self._clock = clock
        # asset -> time of making, and the trade of a list
        self._trades: dict[str, tuple[int, PremiumTrade | None]] = {}
        self._asked_ns = -ASKED_NS
        self._next = 0
        # what the clients of the channel have: asset -> record and row; None = there are none
        self._sent: dict[str, tuple[Latest, PremiumRow]] | None = None
        self._sent_missing: list[str] = []
        self._sent_usdt: PremiumUsdt | None = None

    @property
    def fees(self) -> dict[str, str]:
        """Taker fees by exchange, as fractions."""
        fees = self._settings.endpoint.taker_fees
        return {name: decimal(fee) or "0" for name, fee in fees.items()}

    def latest(self, asset: str) -> Latest | None:
        """Return the newest record of an asset, if it has a premium on any basis."""
        found = self._live.indices.get(asset)
        if found is None or all(found.premium(basis) is None for basis in BASES):
            return None
        return found

    def summary(self, found: Latest, kind: type[Any] = PremiumSummary, **more: Any) -> Any:
        """Return an asset's premium now. Args: kind, more: a longer summary, and its fields."""
        value, record = found.value, found.record
        now_ms = self._now_ms()
        stale = found.stale_reason(now_ms, self._settings.endpoint.stale_ms)
        known = any(found.premium(basis) is not None for basis in BASES)
        return kind(
            asset=value.asset,
            ts=value.ts,
            age_ms=found.age_ms(now_ms),
            stale=stale is not None,
            stale_reason=stale,
            status="ok" if known else NO_VALUE,
            reason=None if known else record.reason or "no_regional_value",
            kr=value.kr,
            gl=value.gl,
            fx=price(record.fx),
            fx_status=record.fx_status,
            usd_krw=price(record.usd_krw),
            usd_krw_status=record.usd_krw_status,
            usd_krw_source=record.usd_krw_source,
            premium=value.premium,
            day=self.stats.of(value.asset)["coin"].day(),
            same_coin=same_coin(value.asset, found),
            stats=self._bases(value.asset),
            **({"trade": self._trade(value.asset)} | more),
        )

    def _now_ms(self) -> int:
        return self._clock() // MILLISECOND_NS

    def _bases(self, asset: str) -> PremiumBases:
        return PremiumBases(*(one.moves() for one in self.stats.of(asset).values()))

    def usdt(self) -> PremiumUsdt | None:
        """Return the premium of USDT, None while there is no USD/KRW rate."""
        stats = self.stats
        if stats.usdt.now is None:
            return None
        premium = stats.usdt.premium
        return PremiumUsdt(
            ts=stats.usdt_ms, fx=price(stats.usdt_rate), fiat=premium, stats=stats.usdt.moves()
        )

    # trades

    def value(self, latest: Latest) -> PremiumValue:
        """Return an asset's premium with its venues, and trades on the newest books."""
        found = self._computed(latest)
        return self.summary(  # type: ignore[no-any-return]
            latest,
            PremiumValue,
            constituents=latest.value.constituents,
            trade=None if found is None else self._best(latest, found[1]),
            trades=None if found is None else self._trades_shown(latest, *found),
        )

    def _trades_shown(
        self, latest: Latest, aggregate: Aggregate, directions: dict[str, Trades]
    ) -> PremiumTrades:
        record, fees = latest.record, self._settings.endpoint.taker_fees
        late_ms = self._now_ms() - aggregate.ts_ns // MILLISECOND_NS
        venues = []
        for venue in aggregate.venues:
            judged = record.venues.get(venue.name)
            suspect: Any = venue.reason or (judged and judged.reason)
            if suspect is None and venue.name in record.flagged:
                suspect = "deviating"
            age_ms = venue.age_ms(aggregate.ts_ns)
            facts = self._facts(venue.name)
            venues.append(
                PremiumVenue(
                    venue=venue.name,
                    region=venue.region,  # type: ignore[arg-type]
                    fee=decimal(fees.get(venue.exchange)),
                    age_ms=None if age_ms is None else int(age_ms) + late_ms,
                    suspect=suspect,
                    wallet=wallet_state(facts),
                    deposit=facts.deposit,
                    withdraw=facts.withdraw,
                    trading=facts.trading,
                    caution=facts.warning,
                    flags=list(facts.flags),
                )
            )
        usdt = _usdt(latest)
        return PremiumTrades(
            ts=aggregate.ts_ns // MILLISECOND_NS,
            fees=self.fees,
            venues=venues,
            directions=[
                PremiumDirection(
                    direction=direction,  # type: ignore[arg-type]
                    none_left_krw=_krw(one.none_left),
                    book_end=one.book_end,
                    buy=one.pair[0],
                    sell=one.pair[1],
                    transfer=self._transfer(*one.pair),
                    sizes=[_size(direction, left, usdt) for left in one.sizes],
                )
                for direction, one in directions.items()
            ],
        )

    def _computed(self, latest: Latest) -> tuple[Aggregate, dict[str, Trades]] | None:
        asset = latest.value.asset
        found = self._live.aggregate(asset)
        if found is None or same_coin(asset, latest) == "questioned":
            return None
        _, aggregate = found
        # venues that the record's regional values used
        regions = latest.record.regions or {}
        used = {region: set(one.shares) for region, one in regions.items()}
        chosen = self._settings.endpoint
        directions = trades(aggregate, used, chosen.taker_fees, chosen.trade_sizes)
        return None if directions is None else (aggregate, directions)

    def _best(self, latest: Latest, directions: dict[str, Trades]) -> PremiumTrade | None:
        """Return the better direction at the size that lists show: the second one configured."""
        number = min(1, len(self._settings.endpoint.trade_sizes) - 1)
        offers = [
            (left.fraction, direction, left, one)
            for direction, one in directions.items()
            for left in one.sizes[number : number + 1]
            if left.fraction is not None
        ]
        if not offers:
            return None
        _, direction, left, one = max(offers, key=lambda offer: offer[0])
        size = _size(direction, left, _usdt(latest))
        return PremiumTrade(
            direction=direction,  # type: ignore[arg-type]
            buy=left.buy or "",
            sell=left.sell or "",
            size_krw=size.size_krw,
            coin=size.coin,
            fiat=size.fiat,
            left_krw=size.left_krw or "0",
            none_left_krw=_krw(one.none_left),
            book_end=one.book_end,
            transfer=self._transfer(left.buy, left.sell),
            cautions=[
                f"{venue} {flag}"
                for venue in (left.buy, left.sell)
                if venue
                for flag in self._facts(venue).flags
            ],
        )

    def _facts(self, venue: str) -> Facts:
        exchange, _, market = venue.partition(":")
        return self._live.facts_of(exchange, market)[0]

    def _transfer(self, buy: str | None, sell: str | None) -> Wallet:
        """Return whether the coin can be moved from the venue that buys to the one that sells."""
        if buy is None or sell is None:
            return "unknown"
        return transfer(self._facts(buy), self._facts(sell))

    def _trade(self, asset: str) -> PremiumTrade | None:
        made = self._trades.get(asset)
        return None if made is None else made[1]

    def asked(self) -> None:
        """Note that a list is asked for; the first one waits for the trades of some assets."""
        self._asked_ns = monotonic_ns()
        if not self._trades:
            self.make_trades(FIRST_TRADES)

    def make_trades(self, most: int) -> int:
        """Make the trades of lists anew where they are old; return how many were made.

        None is made while nobody asks. Args: most: of one call, which takes 0.4 ms for each.
        """
        now_ns = monotonic_ns()
        if now_ns - self._asked_ns > ASKED_NS:
            self._trades.clear()
            return 0
        assets = self._settings.index.assets
        made = 0
        for _ in range(len(assets)):
            asset = assets[self._next % len(assets)]
            before = self._trades.get(asset)
            if before is not None and now_ns - before[0] < TRADE_NS:
                break
            self._next += 1
            latest = self.latest(asset)
            found = None if latest is None else self._computed(latest)
            trade = None if found is None else self._best(cast(Latest, latest), found[1])
            self._trades[asset] = (now_ns, trade)
            made += latest is not None
            if made >= most:
                break
        return made

    # the channel

    def snapshot(self) -> bytes:
        """Return the event with all premiums: those that the channel's clients have."""
        if self._sent is None:
            self._sent, self._sent_missing = self._rows({})
            self._sent_usdt = self.usdt()
        rows = [row for _, row in self._sent.values()]
        return self._event(True, rows, self._sent_usdt)

    def delta(self) -> bytes | None:
        """Return the event with what has changed since the event before; None = nothing."""
        if self._sent is None:
            return self.snapshot()
        before, missing_before, usdt_before = self._sent, self._sent_missing, self._sent_usdt
        self._sent, self._sent_missing = self._rows(before)
        self._sent_usdt = self.usdt()
        rows = []
        for asset, (_, row) in self._sent.items():
            known = before.get(asset)
            found = row if known is None else changes(known[1], row)
            if found is not None:
                rows.append(found)
        usdt: Any = UNSET if self._sent_usdt == usdt_before else self._sent_usdt
        if not rows and usdt is UNSET and self._sent_missing == missing_before:
            return None
        return self._event(False, rows, usdt)

    def forget(self) -> None:
        """Forget what the channel's clients have, since there are none."""
        self._sent = None

    def _event(self, full: bool, rows: list[PremiumRow], usdt: Any) -> bytes:
        event = PremiumsEvent(
            ts=self._now_ms(), full=full, premiums=rows, missing=self._sent_missing, usdt=usdt
        )
        return msgspec.json.encode(event)

    def _rows(
        self, before: dict[str, tuple[Latest, PremiumRow]]
    ) -> tuple[dict[str, tuple[Latest, PremiumRow]], list[str]]:
        self.asked()
        now_ms, stale_ms = self._now_ms(), self._settings.endpoint.stale_ms
        rows, missing = {}, []
        for asset in self._settings.index.assets:
            latest = self.latest(asset)
            if latest is None:
                missing.append(asset)
                continue
            stale = latest.stale_reason(now_ms, stale_ms) is not None
            trade = self._trade(asset)
            known = before.get(asset)
            if known is not None and known[0] is latest:
                row = msgspec.structs.replace(known[1], stale=stale, trade=trade)
            else:
                row = self._row(latest, stale=stale, trade=trade)
            rows[asset] = (latest, row)
        return rows, missing

    def _row(self, latest: Latest, *, stale: bool, trade: PremiumTrade | None) -> PremiumRow:
        value = latest.value
        premium = value.premium
        return PremiumRow(
            asset=value.asset,
            ts=value.ts,
            stale=stale,
            status="ok",
            kr=None if value.kr is None else value.kr.value,
            gl=None if value.gl is None else value.gl.value,
            coin=None if premium is None else premium.coin,
            fiat=None if premium is None else premium.fiat,
            unjudged=None if premium is None else premium.unjudged,
            same_coin=same_coin(value.asset, latest),
            stats=self._bases(value.asset),
            trade=trade,
        )


def changes(before: PremiumRow, now: PremiumRow) -> PremiumRow | None:
    """Return a row with what has changed; None when nothing has."""
    return None if before == now else _changed(before, now, PremiumRow, asset=now.asset)


def _changed(before: Any, now: Any, kind: type[Struct], **always: Any) -> Any:
    found = dict(always)
    for name in kind.__struct_fields__:
        old, new = getattr(before, name), getattr(now, name)
        if old == new:
            continue
        if type(old) is type(new) and isinstance(new, PremiumBases | PremiumMoves):
            new = _changed(old, new, type(new))
        found[name] = new
    return kind(**found)


def _usdt(latest: Latest) -> float | None:
    parts = latest.record.premium_parts
    return None if parts is None else parts.c


def _krw(value: float) -> str:
    return decimal(float(round(value))) or "0"


def _size(direction: str, left: Left, usdt: float | None) -> PremiumSize:
    fraction, fiat = left.fraction, None
    if fraction is not None and usdt is not None:
        # the won side at USD/KRW instead of KRW per USDT
        factor = 1.0 + usdt if direction == "sell_kr" else 1.0 / (1.0 + usdt)
        fiat = (1.0 + fraction) * factor - 1.0
    return PremiumSize(
        size_krw=_krw(left.size),
        buy=left.buy,
        sell=left.sell,
        coin=ratio(fraction),
        fiat=ratio(fiat),
        left_krw=None if fraction is None else _krw(left.size * fraction),
    )
