"""One consolidated book per asset and tick: facts of its venues, FX and the merged ladders.

`venue` keeps the last state of one market of one exchange. `consolidate` merges venues into an
aggregate. `stage` applies bus messages in order and emits aggregates. `worker` connects the stage
to sockets. The payload is in `coinspace.method.aggregate`.
"""
