"""Questions that people ask every day, as SQL for psql, the console or any PostgreSQL client.

Each is a statement with `%(name)s` parameters: `asset` ("BTC"), `exchange`, `market`, and the
half-open range `start`, `end` (ISO 8601 text or timestamps).
"""

from __future__ import annotations

RANGE = "ts >= %(start)s AND ts < %(end)s"

# the Korean premium, minute by minute; null where a minute has no rate or no value
PREMIUM_1M = f"""
SELECT ts, last(premium) premium, last(value_krw) value_krw, last(fx) fx
FROM index_tick
WHERE asset = %(asset)s AND {RANGE}
SAMPLE BY 1m
"""

# each trade beside the index value that was in force, and how far it was from it
TRADES_AT_INDEX = f"""
WITH t AS (SELECT * FROM trade WHERE exchange = %(exchange)s AND market = %(market)s AND {RANGE}),
     i AS (SELECT ts, value_krw FROM index_tick WHERE asset = %(asset)s)
SELECT t.ts, t.trade_id, t.side, t.price, t.size, i.value_krw, t.price / i.value_krw - 1 deviation
FROM t ASOF JOIN i
"""

# base units within 10, 25 and 50 bp of the middle, averaged by the minute
DEPTH_1M = f"""
WITH b AS (
  SELECT ts, (bid + ask) / 2 middle, bids[1] bid_prices, asks[1] ask_prices,
         array_cum_sum(bids[2]) bid_depth, array_cum_sum(asks[2]) ask_depth
  FROM orderbook
  WHERE exchange = %(exchange)s AND market = %(market)s AND {RANGE}
)
SELECT ts,
  avg(coalesce(bid_depth[insertion_point(bid_prices, middle * 0.9990) - 1], 0)) bid_10bp,
  avg(coalesce(ask_depth[insertion_point(ask_prices, middle * 1.0010) - 1], 0)) ask_10bp,
  avg(coalesce(bid_depth[insertion_point(bid_prices, middle * 0.9975) - 1], 0)) bid_25bp,
  avg(coalesce(ask_depth[insertion_point(ask_prices, middle * 1.0025) - 1], 0)) ask_25bp,
  avg(coalesce(bid_depth[insertion_point(bid_prices, middle * 0.9950) - 1], 0)) bid_50bp,
  avg(coalesce(ask_depth[insertion_point(ask_prices, middle * 1.0050) - 1], 0)) ask_50bp
FROM b SAMPLE BY 1m
"""

# share of ticks in which each venue was part of the index, and why it was not most often
VENUE_UPTIME = f"""
SELECT venue, avg(CASE WHEN used THEN 1.0 ELSE 0.0 END) uptime, count() ticks
FROM index_venue
WHERE asset = %(asset)s AND role = 'constituent' AND {RANGE}
ORDER BY venue
"""

# minutes without a single value; `index_1m` counts ticks and values
NULL_MINUTES = f"""
SELECT ts, ticks FROM index_1m WHERE asset = %(asset)s AND valid = 0 AND {RANGE}
"""

DAILY = {
    "premium by the minute": PREMIUM_1M,
    "trades beside the index": TRADES_AT_INDEX,
    "depth at 10, 25 and 50 bp": DEPTH_1M,
    "venue uptime": VENUE_UPTIME,
    "minutes without a value": NULL_MINUTES,
}
