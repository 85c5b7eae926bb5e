"""The index mathematics: pure functions and explicit states, no I/O and no clock.

In the order of a tick: `aggregate` (what is known of every venue, and the merged ladders) · `fx`
(KRW per USDT) ·
`filter` (frozen and deviating venues, regions) · `composite` (cap, curve, value over the used
venues) · `siblings`
(confidence, median, premium, averages) · `parameters` (hash).
"""
