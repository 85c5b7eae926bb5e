"""What each field of the API means, with its unit and an example: one meaning per name.

A name means the same in every answer, event, column and object of the client. Where one answer says
it more exactly, the key is `Model.field`. An example that is left out is that of the field's parts,
or else null. Numbers are decimal strings: their examples, too.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Meaning(NamedTuple):
    """A field's description, and its value in examples.

    Attributes: example: of a field with parts, what differs from the examples of the parts.
    """

    text: str
    example: Any = None


_TS = 1_767_225_600_000
_VENUES = ("upbit:BTC/KRW", "bithumb:BTC/KRW", "binance:BTC/USDT")


def _constituent(venue: str, share: str, mid: str, age_ms: int) -> dict[str, Any]:
    exchange, _, market = venue.partition(":")
    region = "KR" if market.endswith("KRW") else "GL"
    return {
        "venue": venue, "exchange": exchange, "market": market, "region": region,
        "share": share, "mid": mid, "age_ms": age_ms,
    }  # fmt: skip


_CONSTITUENTS = [
    _constituent(_VENUES[0], "0.373", "64206.78", 62),
    _constituent(_VENUES[1], "0.099", "64214.36", 118),
    _constituent(_VENUES[2], "0.528", "64181", 34),
]
_KR = {"currency": "KRW", "value": "88958106.1", "median_capped": "88960750", "twap_1m": "88957207"}
_GL = {"currency": "USDT", "value": "64181", "single_source": True}
_BIDS = [["88958000", "0.5"], ["88957000", "1.25"]]
_ASKS = [["88959000", "0.31"], ["88960000", "2"]]

_STATS = {
    "coin": {"change_1h": "0.0004", "percentile_24h": "0.6125"},
    "fiat": {"change_1h": None, "percentile_24h": None},
}

FIELDS: dict[str, Meaning] = {
    # names and places
    "asset": Meaning("base asset, such as BTC", "BTC"),
    "exchange": Meaning("name of the exchange, in lower case", "upbit"),
    "market": Meaning("market BASE/QUOTE of the exchange", "BTC/KRW"),
    "base": Meaning("what the market trades, as the exchange names it", "BTC"),
    "quote": Meaning("currency of the market's prices", "KRW"),
    "quotes": Meaning("currencies in which the asset's markets quote", ["KRW", "USDT"]),
    "venue": Meaning("a market of an exchange: EXCHANGE:BASE/QUOTE", _VENUES[0]),
    "region": Meaning("KR: Korean exchanges, GL: all others; null where no region is known", "KR"),
    "currency": Meaning("currency of the values and prices", "USDT"),
    "process": Meaning("name of the process", "orderbook-collector-upbit"),
    "publisher": Meaning(
        "process that published the messages on the bus", "orderbook-collector-upbit"
    ),
    # times and ages
    "ts": Meaning("time of the row, ms since 1970-01-01 UTC", _TS),
    "IndexValue.ts": Meaning("time of the tick, ms since 1970-01-01 UTC", _TS),
    "Candle.ts": Meaning("begin of the candle's interval, ms since 1970-01-01 UTC", _TS),
    "Trade.ts": Meaning(
        "when the trade took place: the exchange's time, where it sends none the time of receipt;"
        " ms since 1970-01-01 UTC",
        _TS,
    ),
    "Book.ts": Meaning("when the book was received, ms since 1970-01-01 UTC", _TS),
    "Ticker.ts": Meaning("when the ticker was received, ms since 1970-01-01 UTC", _TS),
    "Gap.ts": Meaning("when the gap was found or the outage began, ms since 1970-01-01 UTC", _TS),
    "received": Meaning("when the message was received, ms since 1970-01-01 UTC", _TS),
    "exchange_time": Meaning(
        "the exchange's own time of the message, ms since 1970-01-01 UTC; null where it sends none",
        _TS - 25,
    ),
    "book_ts": Meaning(
        "`ts` of the market's newest book, ms since 1970-01-01 UTC; null without one", _TS
    ),
    "ticker_ts": Meaning(
        "`ts` of the market's newest ticker, ms since 1970-01-01 UTC; null without one", _TS
    ),
    "trade_ts": Meaning(
        "`ts` of the market's newest trade, ms since 1970-01-01 UTC; null without one", _TS
    ),
    "since": Meaning("begin of the state, ms since 1970-01-01 UTC; null where unknown", _TS),
    "closed": Meaning(
        "when the gap was filled or given up, or the outage ended, ms since 1970-01-01 UTC; null"
        " while it is open",
        _TS + 900,
    ),
    "Candle.closed": Meaning("whether the interval is over and all its values are stored", True),
    "effective": Meaning(
        "from when on the definition counts, ms since 1970-01-01 UTC; null = now", _TS
    ),
    "start": Meaning("begin of the range, which belongs to it, ms since 1970-01-01 UTC", _TS),
    "end": Meaning(
        "end of the range, which does not belong to it, ms since 1970-01-01 UTC", _TS + 60_000
    ),
    "age_ms": Meaning(
        "ms since the value's time, by this host's clock; below 0 when that time is in the future:"
        " a clock is or was wrong, and the value is stale",
        140,
    ),
    "Constituent.age_ms": Meaning(
        "ms from the last sign of life of the venue's book to the tick; null without a book", 62
    ),
    "Venue.age_ms": Meaning("ms since the last sign of life of the book; null without one", 62),
    "ProcessHealth.age_ms": Meaning("ms since the process wrote its health file", 420),
    "uptime_s": Meaning("s since the process started", 86_400),
    "latency_us": Meaning(
        "median µs from receipt (for aggregator and calculator: from the tick) to publishing, over"
        " the last messages on the bus; null for processes that publish none",
        310,
    ),
    "interval_ms": Meaning("ms between two ticks; 0 = a tick per update of a book", 200),
    "grace_ms": Meaning("ms from a tick's time to its computation", 50),
    "interval": Meaning("length of a candle", "1m"),
    # states
    "status": Meaning(
        "ok, degraded (a venue is unused, or the rate is not of this tick) or no_value, with a"
        " reason",
        "ok",
    ),
    "Book.status": Meaning(
        "ok; stale (see stale_reason); stored for a past book; or the state of a market that is not"
        " synced",
        "ok",
    ),
    "Ticker.status": Meaning(
        "ok; stale (see stale_reason); or the state of a market that is not synced", "ok"
    ),
    "Gap.status": Meaning(
        "open (being fetched), filled, lost, or dead (refused by the database)", "filled"
    ),
    "Asset.status": Meaning("status of the newest value; null for an asset without index", "ok"),
    "state": Meaning(
        "state of the market's connection and book; unknown until the collector reports it",
        "synced",
    ),
    "ProcessHealth.state": Meaning("state of the process by its health file", "ready"),
    "Readiness.state": Meaning("ready, or degraded with reasons", "ready"),
    "Liveness.state": Meaning("ok: the process answers", "ok"),
    "reason": Meaning("why there is no value; null where there is one"),
    "Constituent.reason": Meaning("why the venue is left out; null when it is used"),
    "Venue.reason": Meaning("why the venue is not synced or not used, in words; null without one"),
    "Market.reason": Meaning("why the market is not synced, in words; null without one"),
    "Gap.reason": Meaning("cause, in words; null where unknown", "disconnected: connection lost"),
    "ProcessHealth.reason": Meaning("why the process is not ready, in words; null without one"),
    "reasons": Meaning(
        "why live values are not served or stored, with remedies; empty when ready", []
    ),
    "stale": Meaning("whether the value is too old to rely on", False),
    "Asset.stale": Meaning("whether that value is too old to rely on; null without index", False),
    "stale_reason": Meaning(
        "old: its time is too long ago; silent: no newer one has arrived for too long; future: its"
        " time is in the future, a clock is or was wrong; null = not stale"
    ),
    "live": Meaning("true for the newest tick, false for a stored one", True),
    "index": Meaning("whether the index uses the market as a constituent", True),
    "Asset.index": Meaning("whether the asset has an index here", True),
    "Explanation.index": Meaning("the tick's value"),
    "failed": Meaning("whether the index has had no value for 60 s or longer", False),
    "split": Meaning(
        "whether all Korean venues are too far from all others: then the index has no value, the"
        " regions do",
        False,
    ),
    "repeated": Meaning(
        "the clock was set back and this instant has an earlier stored record, which stays", False
    ),
    "unjudged": Meaning(
        "whether every venue of the region deviates, and the value comes from them nevertheless",
        False,
    ),
    "Premium.unjudged": Meaning(
        "whether the venues or the rate behind the premium have only suspect books", False
    ),
    "single_source": Meaning("whether only one venue is behind the value", False),
    "alarm": Meaning("whether median_capped differs from value by more than 0.1 %", False),
    "used": Meaning("whether the index uses the venue; null where it is not a constituent", True),
    "Explanation.used": Meaning("venues behind the value", _CONSTITUENTS),
    # prices, values, sizes
    "value": Meaning(
        "the index in `currency` per unit of base; null with a reason without one", "64193.4"
    ),
    "Regional.value": Meaning(
        "the region's value in its `currency` per unit of base; null with a reason without one",
        "88958106.1",
    ),
    "PriceVolumeCurve.value": Meaning("the curve's value in USDT per unit of base", "64193.4"),
    "value_krw": Meaning("the index × fx, in KRW per unit of base: a converted number", "88939956"),
    "kr": Meaning("the Korean value in KRW, from KRW books alone", _KR),
    "IndexPoint.kr": Meaning("the Korean value in KRW per unit of base", "88958106.1"),
    "Candle.kr": Meaning("the last Korean value in KRW per unit of base", "88958106.1"),
    "gl": Meaning("the value outside Korea in USDT", _GL),
    "IndexPoint.gl": Meaning("the value outside Korea in USDT per unit of base", "64181"),
    "Candle.gl": Meaning("the last value outside Korea in USDT per unit of base", "64181"),
    "premium": Meaning("the kimchi premium; null without both regional values and a rate"),
    "IndexPoint.premium": Meaning(
        "the kimchi premium `coin` as a fraction, 0.01 is 1 %", "0.0003973"
    ),
    "Candle.premium": Meaning(
        "the last kimchi premium `coin` as a fraction, 0.01 is 1 %", "0.0003973"
    ),
    "coin": Meaning(
        "kr / (gl × fx) - 1: the premium against USDT, a fraction, 0.01 is 1 %", "0.0003973"
    ),
    "fiat": Meaning(
        "the premium against the bank's USD/KRW rate, a fraction; null without that rate"
    ),
    "usdt": Meaning(
        "the premium of USDT itself against that rate, a fraction; null without that rate"
    ),
    "day": Meaning("range of `coin` in the last 24 h; null while nothing is known of it"),
    "PremiumDay.high": Meaning("highest premium, a fraction, 0.01 is 1 %", "0.00214"),
    "PremiumDay.low": Meaning("lowest premium, a fraction, 0.01 is 1 %", "-0.00105"),
    "percentile": Meaning(
        "part of the samples at or below the premium now, a fraction of 0 to 1; the last premium of"
        " each minute or hour is a sample",
        "0.6125",
    ),
    "PremiumDay.percentile": Meaning(
        "part of the minutes whose premium was at most the present one, a fraction of 0 to 1",
        "0.6125",
    ),
    "same_coin": Meaning(
        "known: the registry of names has the asset; questioned: it has not, and the prices in"
        " Korea and outside differ by more than 50 %, so the name may mean two coins; assumed:"
        " neither",
        "known",
    ),
    "rank": Meaning(
        "place in the order asked for, from 1; null where same_coin is questioned, and without the"
        " value of the order",
        1,
    ),
    "stats": Meaning("changes and percentiles of the premium, by basis", _STATS),
    "PremiumUsdt.stats": Meaning("changes and percentiles of `fiat`"),
    "PremiumBases.coin": Meaning("of the premium against USDT"),
    "PremiumBases.fiat": Meaning("of the premium against USD"),
    **{
        f"change_{span}": Meaning(
            f"the premium now less that of {words} ago, a fraction, 0.01 is 1 %-point; null where"
            " either is unknown",
            example,
        )
        for span, words, example in (
            ("1m", "1 minute", "0.00002"),
            ("5m", "5 minutes", "-0.00011"),
            ("1h", "1 hour", "0.0004"),
            ("24h", "24 hours", "-0.0018"),
        )
    },
    **{
        f"percentile_{span}": Meaning(
            f"part of the samples of the last {words} at or below the premium now, a fraction of 0"
            " to 1; null without a premium",
            example,
        )
        for span, words, example in (
            ("1h", "hour", "0.5167"),
            ("24h", "24 hours", "0.6125"),
            ("7d", "7 days", "0.4048"),
            ("30d", "30 days", "0.7139"),
            ("90d", "90 days", "0.8005"),
        )
    },
    "as_high_ts": Meaning(
        "begin of the minute (of the last 24 h) or hour (of 90 days) in which the premium was last"
        " as high as now, ms since 1970-01-01 UTC; null = in none",
        _TS - 5_400_000,
    ),
    "as_low_ts": Meaning(
        "begin of the minute (of the last 24 h) or hour (of 90 days) in which the premium was last"
        " as low as now, ms since 1970-01-01 UTC; null = in none",
        _TS - 60_000,
    ),
    "windows": Meaning("statistics of each window, the shortest first"),
    "WindowStatistics.window": Meaning("time that ends now", "24h"),
    "samples": Meaning("minutes (1h, 24h) or hours (7d, 30d, 90d) with a premium", 1440),
    "of": Meaning("minutes or hours of the window", 1440),
    "mean": Meaning("mean of the samples, a fraction, 0.01 is 1 %", "0.000612"),
    "deviation": Meaning(
        "standard deviation of the samples, a fraction, 0.01 is 1 %-point", "0.00041"
    ),
    "z": Meaning(
        "(premium now - mean) / deviation, in standard deviations, not a fraction; null where all"
        " samples are equal",
        "-0.5236",
    ),
    "WindowStatistics.high": Meaning("highest sample, a fraction, 0.01 is 1 %", "0.00214"),
    "WindowStatistics.low": Meaning("lowest sample, a fraction, 0.01 is 1 %", "-0.00105"),
    "BasisStatistics.premium": Meaning(
        "the premium now, a fraction, 0.01 is 1 %; null without one", "0.0003973"
    ),
    "PremiumStatistics.coin": Meaning("of the premium against USDT; null for USDT itself"),
    "PremiumStatistics.fiat": Meaning("of the premium against USD"),
    "PremiumStatistics.ts": Meaning("time of the newest tick, ms since 1970-01-01 UTC", _TS),
    "spark": Meaning(
        "last premium of each half hour of the last 24 h on the basis asked for, oldest first,"
        " as numbers: fractions, 0.01 is 1 %; absent unless asked for",
        [0.00031, None, 0.0003973],
    ),
    "trade": Meaning(
        "the direction that leaves more of the second configured size (10,000,000 KRW by default);"
        " null without both books, where same_coin is questioned, and until it is computed, at most"
        " 5 s"
    ),
    "PremiumValue.trades": Meaning(
        "what trades of several sizes leave; null without a summed book or a rate, and where"
        " same_coin is questioned"
    ),
    "direction": Meaning(
        "sell_kr: buy outside and sell in Korea; buy_kr: buy in Korea and sell outside", "sell_kr"
    ),
    "directions": Meaning("both directions"),
    "sizes": Meaning("what is left of each configured size"),
    "buy": Meaning("venue that buys; null where no pair of books has the size", _VENUES[2]),
    "sell": Meaning("venue that sells; null where no pair of books has the size", _VENUES[0]),
    "PremiumDirection.buy": Meaning("venue that buys none_left_krw; null where that is 0", None),
    "PremiumDirection.sell": Meaning("venue that sells it; null where none_left_krw is 0", None),
    "size_krw": Meaning("money put in, in KRW", "10000000"),
    "left_krw": Meaning(
        "what is left of it on coin basis after both fees, in KRW; below 0 a loss", "-11024"
    ),
    "none_left_krw": Meaning(
        "size at which nothing is left, in KRW; 0 = something is left of no size", "0"
    ),
    "book_end": Meaning(
        "whether something is left of every size that the books have: none_left_krw is then where"
        " they end",
        False,
    ),
    **{
        f"{model}.{basis}": Meaning(
            f"what is left after both fees, with USDT at {rate}, a fraction of the money put in;"
            " below 0 a loss",
            example,
        )
        for model in ("PremiumTrade", "PremiumSize")
        for basis, rate, example in (
            ("coin", "the KRW per USDT of the tick", "-0.0011024"),
            ("fiat", "USD/KRW; null without that rate", "-0.0004"),
        )
    },
    "fees": Meaning(
        "exchange -> taker fee, a fraction of the money: `endpoint.taker_fees`",
        {"upbit": "0.0005", "binance": "0.001"},
    ),
    "fee": Meaning("taker fee, a fraction of the money; null where it is not known", "0.0005"),
    "PremiumVenue.age_ms": Meaning(
        "ms since the last sign of life of the venue's book; null without one", 62
    ),
    "suspect": Meaning("why the index leaves the venue out or suspects it; null = it does not"),
    "wallet": Meaning(
        "the worse one of deposit and withdraw; unknown where no public source says it", "open"
    ),
    "deposit": Meaning(
        "deposits of the coin: open, partial (on some networks only), closed; unknown without a"
        " public source",
        "open",
    ),
    "withdraw": Meaning(
        "withdrawals of the coin: open, partial (on some networks only), closed; unknown without a"
        " public source",
        "open",
    ),
    "trading": Meaning(
        "open, limited (some kinds of orders only), suspended; unknown without a public source",
        "open",
    ),
    "caution": Meaning(
        "highest step of the exchange's warnings in force; unknown without a public source", "none"
    ),
    "flags": Meaning("the exchange's warnings in force, by its names", ["PRICE_FLUCTUATIONS"]),
    "transfer": Meaning(
        "whether the coin can be withdrawn where it is bought and deposited where it is sold:"
        " partial = on some networks only; unknown without public sources of both",
        "unknown",
    ),
    "cautions": Meaning(
        "warnings of both venues in force: venue and the exchange's name of the warning",
        ["upbit:BTC/KRW PRICE_FLUCTUATIONS"],
    ),
    "networks": Meaning("networks of the coin's wallet, as the exchange names them"),
    "network": Meaning("network of a wallet, as the exchange names it", "BTC"),
    "WalletNetwork.deposit": Meaning("whether deposits are open; null = not known", True),
    "WalletNetwork.withdraw": Meaning("whether withdrawals are open; null = not known", True),
    "MarketFacts.ts": Meaning(
        "time when the collector published the facts last, ms since 1970-01-01 UTC; null = nothing"
        " is known",
        _TS,
    ),
    "MarketFacts.detail": Meaning("why trading is not open, in words; null where it is"),
    "delisting": Meaning("day on which trading ends, as announced; null without one"),
    "notices": Meaning(
        "the exchange's newest notices that name the coin, newest first; null without a public"
        " source"
    ),
    "MarketNotice.ts": Meaning("time of publication, ms since 1970-01-01 UTC", _TS),
    "category": Meaning("the exchange's categories of the notice", "입출금"),
    "MarketNotice.title": Meaning("title of the notice", "비트코인(BTC) 입출금 일시 중지 안내"),
    "url": Meaning("address of the notice", "https://feed.bithumb.com/notice/1649000"),
    "Market.facts": Meaning("facts beside the price, which never change it"),
    "PremiumTrades.venues": Meaning("each venue as a side of a trade"),
    "basis": Meaning("coin: against USDT; fiat: against USD", "coin"),
    "full": Meaning("whether all premiums are there; false: only what has changed", True),
    "PremiumRow.kr": Meaning("the Korean value in KRW per unit of base", "88958106.1"),
    "PremiumRow.gl": Meaning("the value outside Korea in USDT per unit of base", "64181"),
    "PremiumPoint.kr": Meaning("the Korean value in KRW per unit of base", "88958106.1"),
    "PremiumPoint.gl": Meaning("the value outside Korea in USDT per unit of base", "64181"),
    "PremiumPage.values": Meaning("stored premiums, oldest first"),
    **{
        f"PremiumCandle.{name}": Meaning(f"{text}, a fraction, 0.01 is 1 %", example)
        for name, text, example in (
            ("open", "the first premium", "0.00036"),
            ("high", "the highest premium", "0.00042"),
            ("low", "the lowest premium", "0.00035"),
            ("close", "the last premium", "0.0003973"),
        )
    },
    "PremiumCandle.valid": Meaning("records of the interval with a premium", 300),
    "Premiums.usdt": Meaning("the premium of USDT itself; null without a USD/KRW rate"),
    "PremiumsEvent.usdt": Meaning(
        "the premium of USDT itself, null without a USD/KRW rate; absent where unchanged"
    ),
    "PremiumsEvent.premiums": Meaning(
        "a row per asset; unless `full`, a row has its asset and what has changed"
    ),
    "PremiumsEvent.missing": Meaning("assets without a premium now", ["SOL"]),
    "minutes": Meaning("minutes that are known, of 1,440", 1440),
    "executable": Meaning("the premium after fees when both legs of a size trade at market"),
    "sell_kr": Meaning(
        "result of selling in Korea and buying outside, a fraction, above 0 a gain; null when the"
        " books are too thin",
        "-0.0016",
    ),
    "buy_kr": Meaning(
        "cost of buying in Korea and selling outside, a fraction, above 0 a loss; null when the"
        " books are too thin",
        "0.0024",
    ),
    "fx": Meaning("KRW per USDT from USDT/KRW books; null without a usable rate", "1385.5"),
    "Candle.fx": Meaning("the last KRW per USDT", "1385.5"),
    "usd_krw": Meaning("KRW per USD of banks or markets; null without a usable rate", "1371.5"),
    "usd_krw_status": Meaning(
        "ok: quoted now; closed: the last quotation before the market closed; late: older than"
        " usual; daily: of a source that quotes once a bank day; held: the last rate, the new one"
        " is not confirmed; fixed: a constant of the configuration; unconfirmed, stale, none: no"
        " rate; null = not computed",
        "ok",
    ),
    "usd_krw_source": Meaning(
        "who gave USD/KRW: a source, `configuration` or `given`; null without a rate", "dunamu"
    ),
    "StoredQuotation.source": Meaning("name of the source", "dunamu"),
    "StoredQuotation.rate": Meaning("KRW per USD", "1371.5"),
    "StoredQuotation.received": Meaning(
        "when it was received first, ms since 1970-01-01T00:00:00Z", _TS + 5000
    ),
    "quotations": Meaning("quotations of USD/KRW, newest first"),
    "RateQuotation.source": Meaning("name of the source", "dunamu"),
    "RateQuotation.rate": Meaning("KRW per USD", "1371.5"),
    "daily": Meaning("whether the source quotes only once a bank day", False),
    "observed": Meaning("time that the source gives, ms since 1970-01-01T00:00:00Z", _TS),
    "RateQuotation.received": Meaning(
        "when the source last gave this quotation, ms since 1970-01-01T00:00:00Z", _TS + 5000
    ),
    "RateQuotation.age_ms": Meaning("ms since the time that the source gives", 9000),
    "UsdKrw.rate": Meaning("KRW per USD; null without a usable rate", "1371.5"),
    "UsdKrw.status": Meaning(
        "ok: quoted now; closed: the last quotation before the market closed; late: older than"
        " usual; daily: of a source that quotes once a bank day; held: the last rate, the new one"
        " is not confirmed; fixed: a constant of the configuration; unconfirmed, stale, none: no"
        " rate",
        "ok",
    ),
    "UsdKrw.source": Meaning("who gave the rate; null without a rate", "dunamu"),
    "UsdKrw.age_ms": Meaning("ms since the time that the source gives; null without a rate", 9000),
    "sources": Meaning("the last quotation of each source that answers"),
    "fx_status": Meaning(
        "ok: of this tick; held: the last rate, no book is usable; suspect: the last rate, the new"
        " one is not confirmed; none: no rate; null = not computed",
        "ok",
    ),
    "best_bid": Meaning("best bid of the used venues, in USDT", "64192"),
    "best_ask": Meaning("best ask of the used venues, in USDT", "64194.5"),
    "open": Meaning("first value of the interval, in `currency`", "64180.5"),
    "high": Meaning("highest value of the interval, in `currency`", "64201.7"),
    "low": Meaning("lowest value of the interval, in `currency`", "64178"),
    "close": Meaning("last value of the interval, in `currency`", "64193.4"),
    "Ticker.open": Meaning("first price of the window, in the market's quote", "88400000"),
    "Ticker.high": Meaning("highest price of the window, in the market's quote", "89020000"),
    "Ticker.low": Meaning("lowest price of the window, in the market's quote", "88150000"),
    "last": Meaning("price of the last trade, in the market's quote", "88958000"),
    "Gap.last": Meaning(
        "number of the last lost message; a tick's time in ns for kind index", 1203
    ),
    "first": Meaning("number of the first lost message; a tick's time in ns for kind index", 1201),
    "count": Meaning("lost messages, rows or ticks", 3),
    "change": Meaning("change of the price in the window, in the market's quote", "558000"),
    "volume": Meaning("traded size of the last 24 h, in base units", "1841.27"),
    "quote_volume": Meaning("traded value of the last 24 h, in the market's quote", "163700000000"),
    "window": Meaning(
        "time range of open, high, low and change: the last 24 h, or the day in UTC or in Korea;"
        " null where unknown",
        "utc_day",
    ),
    "bid": Meaning("average price to sell the size, in USDT, fees included", "64191.2"),
    "ask": Meaning("average price to buy the size, in USDT, fees included", "64195.8"),
    "Ticker.bid": Meaning("best bid, in the market's quote; null where not sent", "88958000"),
    "Ticker.ask": Meaning("best ask, in the market's quote; null where not sent", "88959000"),
    "CurveSegment.bid": Meaning("price to sell the last unit of the volume, in USDT", "64192"),
    "CurveSegment.ask": Meaning("price to buy the last unit of the volume, in USDT", "64194.5"),
    "Depth.bid": Meaning("size of the bids within the distance, in base units", "18.4"),
    "Depth.ask": Meaning("size of the asks within the distance, in base units", "21.07"),
    "bid_size": Meaning("size at the best bid, in base units; null where not sent", "0.5"),
    "ask_size": Meaning("size at the best ask, in base units; null where not sent", "0.31"),
    "bids": Meaning("bids, best first"),
    "asks": Meaning("asks, best first"),
    "Book.bids": Meaning("bids [price, size] in the market's quote and base, best first", _BIDS),
    "Book.asks": Meaning("asks [price, size] in the market's quote and base, best first", _ASKS),
    "Profile.bids": Meaning(
        "venue -> cumulative size in base units at or above mid × (1 - i × step), i from 0",
        {_VENUES[0]: [0.0, 0.5, 1.75]},
    ),
    "Profile.asks": Meaning(
        "venue -> cumulative size in base units at or below mid × (1 + i × step), i from 0",
        {_VENUES[0]: [0.0, 0.31, 2.31]},
    ),
    "PriceVolumeCurve.bids": Meaning("used bids, best first", [{"price": "64192"}]),
    "PriceVolumeCurve.asks": Meaning("used asks, best first", [{"price": "64194.5"}]),
    "ConsolidatedBook.asks": Meaning("asks, best first", [{"price": "64194.5"}]),
    "price": Meaning("price in USDT per unit of base", "64192"),
    "Trade.price": Meaning("price in the market's quote per unit of base", "88958000"),
    "size": Meaning("size in base units", "0.5"),
    "capped": Meaning("the size after the size cap, in base units", "0.5"),
    "cumulative": Meaning("sum of the capped sizes up to this level, in base units", "0.5"),
    "mid": Meaning("middle of best bid and ask, in the market's quote", "88958500"),
    "Constituent.mid": Meaning(
        "middle of best bid and ask in USDT; in KRW for a venue of the rate; null without a book",
        "64206.78",
    ),
    "CurveSegment.mid": Meaning("middle of bid and ask, in USDT", "64193.4"),
    "Profile.mid": Meaning("middle of best bid and ask, in USDT", "64193.25"),
    "spread": Meaning("(ask - bid) / mid, a fraction, 0.01 is 1 %", "0.00001124"),
    "CurveSegment.spread": Meaning("ask / mid - 1, a fraction, 0.01 is 1 %", "0.0000195"),
    "CurveSegment.start": Meaning("the step's volume is above this, in base units", "0"),
    "CurveSegment.end": Meaning("the step's volume is at most this, in base units", "0.5"),
    "weight": Meaning("the step's part of the value, 0 to 1; 0 beyond the used depth", "0.442"),
    "share": Meaning("the venue's part of the curve's weight, 0 to 1", "0.373"),
    "confidence": Meaning(
        "distance in `currency` from the median of the venues' bids, mids and asks to the farther"
        " quartile",
        "11.5",
    ),
    "median_capped": Meaning(
        "mean of venue mids limited to ±0.5 % around their median, in `currency`: an independent"
        " check",
        "64193.1",
    ),
    "twap_1m": Meaning(
        "time-weighted mean of the last minute in `currency`; null with less than 90 % of it",
        "64190.7",
    ),
    "utilised_depth": Meaning("volume that the curve used, in base units", "3.2"),
    "coverage_depth": Meaning(
        "volume up to the last level of the shallowest venue, in base units", "3.2"
    ),
    "depth_limited": Meaning("whether the curve wanted to go deeper than coverage_depth", True),
    "curve_end": Meaning(
        "why the curve ended: D (the spread limit) or exhausted (no more levels); null without a"
        " curve",
        "D",
    ),
    "size_cap": Meaning("a larger order counts with this size, in base units", "12.6"),
    "liquidity": Meaning("average price to sell or buy the configured sizes into the summed book"),
    "within_percent": Meaning("distance from the mid price in percent", "0.5"),
    "step_percent": Meaning("distance between two sizes of a side in percent", "0.01"),
    "depth": Meaning("size within several distances of the mid price"),
    "Market.depth": Meaning("most levels per side that are published and merged", 30),
    "profile": Meaning("cumulative size per venue, for drawing; null with an empty side"),
    "side": Meaning("side of the taker", "buy"),
    "trade_id": Meaning(
        "the exchange's number of the trade, or one made from its data", "17672256"
    ),
    # parts of answers
    "constituents": Meaning("venues of the index, used or not", _CONSTITUENTS),
    "n_used": Meaning("number of venues behind the value", 3),
    "Definition.constituents": Meaning("venues of the index", list(_VENUES)),
    "venues": Meaning("venues, one by one"),
    "Level.venues": Meaning("each venue's size at the price"),
    "ConsolidatedBook.venues": Meaning("venues of the index, used or not", _CONSTITUENTS),
    "excluded": Meaning("venues that are left out", []),
    "fx_venues": Meaning(
        "venues of the rate, used or not",
        [_constituent("upbit:USDT/KRW", "0.61", "1385.5", 80)],
    ),
    "flagged": Meaning("venues that the method remembers as deviating", []),
    "inputs": Meaning("venue -> the message that its book came from", {_VENUES[0]: {}}),
    "curve": Meaning("the curve behind the value; null with a reason without one"),
    "curve_reason": Meaning("why there is no curve; null where there is one"),
    "source": Meaning(
        "summed_book: the tick's own book; stored_books: the tick's inputs as stored", "summed_book"
    ),
    "levels_missing": Meaning("published levels that the stored books lack", 0),
    "difference": Meaning("value / published value - 1, a fraction", "0"),
    "rows_left_out": Meaning("steps and levels beyond the answer's limit", 0),
    "segments": Meaning("steps of the curve, from the smallest volume"),
    "epoch": Meaning("start of the publishing process, ns since 1970-01-01 UTC", f"{_TS}000000"),
    "sequence": Meaning("number of the message of its topic since that start", "81234"),
    "indices": Meaning("the newest value of every index"),
    "missing": Meaning("assets whose index has no value yet", []),
    "Premiums.missing": Meaning("assets without a premium now, among those asked for", ["SOL"]),
    "premiums": Meaning("the premium of each asset, in the order asked for"),
    "assets": Meaning("assets, in alphabetical order"),
    "markets": Meaning("markets, by exchange in the order of the settings"),
    "Asset.markets": Meaning("venues that trade the asset", list(_VENUES)),
    "exchanges": Meaning("exchanges that trade the asset", ["upbit", "bithumb", "binance"]),
    "values": Meaning("stored values, oldest first"),
    "candles": Meaning("candles, oldest first"),
    "orderbooks": Meaning("stored books, oldest first"),
    "tickers": Meaning("the newest ticker of each market"),
    "trades": Meaning("trades, oldest first"),
    "gaps": Meaning("gaps, newest first"),
    "GapsEvent.gaps": Meaning("gaps that the endpoint has noticed since the event before"),
    "processes": Meaning("processes, by name"),
    "definitions": Meaning("the definitions in force, one per asset"),
    "announced": Meaning(
        "stored definitions, newest first; null while the database cannot be read"
    ),
    "parameters": Meaning(
        "parameters of the method: `index.parameters` of the configuration",
        {"max_deviation": 0.05, "max_spread": 0.005, "decay": 0.3},
    ),
    "role": Meaning("live, or next: a candidate that runs beside the live index", "live"),
    "method_version": Meaning("version of the method", "2"),
    "parameter_hash": Meaning(
        "16 hex digits over version, parameters and depths", "3f0a9c41d2b6e875"
    ),
    "ticks": Meaning("records of the interval, null values included", 300),
    "valid": Meaning("records of the interval with a value", 300),
    "updates": Meaning("books received since the endpoint started", 81234),
    "counters": Meaning(
        "the process's counters: name -> total since its start, or the present value",
        {"messages": 81234.0, "reconnects": 0.0},
    ),
    "kind": Meaning(
        "what is missing: messages of this kind on the bus, ticks (index), or data of a venue",
        "orderbook",
    ),
    "cursor": Meaning("position of the next page; null on the last one"),
    "next": Meaning("address of the next page, for the same range; null on the last one"),
    # streams
    "boot": Meaning(
        "names this run of the endpoint; ids of its events begin with it", "19b7a3c5f40"
    ),
    "channel": Meaning("channel of the event, `*` = all of this stream", "trade.upbit:BTC/KRW"),
    "channels": Meaning("channels, by name", ["index.BTC", "book.BTC"]),
    "StreamGap.reason": Meaning(
        "resume: the events after `last_event_id` are not kept any more; slow: the client reads too"
        " slowly",
        "slow",
    ),
    "Shutdown.reason": Meaning("why the stream ends, in words", "the endpoint is stopping"),
    "missed": Meaning("events that were left out", 12),
    "last_event_id": Meaning("the last event that the client has received", "19b7a3c5f40-81234"),
    "id": Meaning("the `id` of the command that is answered; absent where it had none", 1),
    # errors
    "type": Meaning("stable name of the problem", "urn:coinspace:problem:invalid-parameter"),
    "title": Meaning("what the type means", "A parameter is invalid"),
    "ProblemBody.status": Meaning("HTTP status", 400),
    "detail": Meaning(
        "what was expected, what was found, what to do",
        "limit: expected a whole number from 1, was '0'",
    ),
}

# parameters of requests whose type says nothing about them
PARAMETERS: dict[str, Meaning] = {
    "asset": Meaning("base asset, in any case of letters", "BTC"),
    "exchange": Meaning("name of an exchange, in any case of letters", "upbit"),
    "base": Meaning("what the market trades, in any case of letters", "BTC"),
    "quote": Meaning("currency of the market's prices, in any case of letters", "KRW"),
    "market": Meaning("market BASE/QUOTE, in any case of letters", "BTC/KRW"),
    "start": Meaning(
        "begin of the range, which belongs to it: ms since 1970 or ISO 8601 with a zone"
    ),
    "end": Meaning("end of the range, which does not belong to it; now by default"),
    "at": Meaning("an instant of the past: ms since 1970 or ISO 8601 with a zone; now by default"),
    "ts": Meaning("an instant: the tick at or just before it; the newest by default"),
    "interval": Meaning("length of a candle"),
    "source": Meaning("only quotations of this source", "dunamu"),
    "kind": Meaning("only gaps of this kind"),
    "status": Meaning("only gaps in this status"),
    "indices": Meaning("assets whose index values are sent, comma-separated; * for all"),
    "books": Meaning("assets whose summed books are sent, comma-separated; * for all"),
    "tickers": Meaning(
        "markets EXCHANGE:BASE/QUOTE whose tickers are sent, comma-separated; * for all"
    ),
    "trades": Meaning(
        "markets EXCHANGE:BASE/QUOTE whose trades are sent, comma-separated; * for all"
    ),
    "platform": Meaning("tables that are sent: venues, gaps, pipeline, comma-separated"),
    "last_event_id": Meaning("the last received event: the stream goes on after it"),
    "sort": Meaning("what the answer is sorted by"),
    "order": Meaning("ascending or descending"),
    "assets": Meaning("only these assets, comma-separated; all by default"),
    "min": Meaning("only premiums of at least this fraction; 0.01 is 1 %"),
    "max": Meaning("only premiums of at most this fraction; 0.01 is 1 %"),
    "search": Meaning("only assets whose name has this text, in any case of letters"),
    "basis": Meaning("coin: the premium against USDT; fiat: against USD"),
    "window": Meaning("window of the percentile that `sort` means"),
    "spark": Meaning("true adds a curve of the last 24 h to each asset"),
    "premiums": Meaning("true: the premiums of all assets are sent, at most once a second"),
    "stale": Meaning("false leaves out assets whose value is stale"),
}


def of_field(model: str, field: str) -> Meaning | None:
    """Return the meaning of an answer's field, None = it has none.

    A model that extends or repeats another's fields has that one's meanings.
    """
    for name in (model, *_LIKE.get(model, ())):
        if (found := FIELDS.get(f"{name}.{field}")) is not None:
            return found
    return FIELDS.get(field)


# model -> models whose more exact meanings it shares
_LIKE = {
    "LatestIndexValue": ("IndexValue",),
    "PremiumValue": ("IndexValue",),
    "PremiumSummary": ("IndexValue",),
    "RankedPremium": ("IndexValue",),
    "PremiumRow": ("IndexValue",),
    "PremiumPoint": ("IndexValue",),
    "PremiumCandle": ("Candle",),
    "StoredBook": ("Book",),
}
