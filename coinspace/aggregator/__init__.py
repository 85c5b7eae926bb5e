"""One consolidated book per asset: venue states and their facts, FX, and the merged ladders at
every tick.

`venue` holds the last state of one market of one exchange, `consolidate` makes an aggregate of
several, `stage` applies
bus messages in order and emits aggregates, `worker` binds it to sockets. The payload is in
`coinspace.method.aggregate`.
"""
