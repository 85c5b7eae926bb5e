"""The index mathematics: pure functions and explicit states, no I/O and no clock.

In the order of a tick: `aggregate` (facts of every venue, merged ladders) · `fx` (KRW per USDT) ·
`filter` (frozen and deviating venues, regions) · `composite` (cap, curve, value over the used
venues) · `siblings` (confidence, median, premium, averages) · `record` (the result) ·
`parameters` (version, hash) · `digits` (rounding).
"""
