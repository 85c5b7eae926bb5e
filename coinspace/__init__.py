"""Realtime crypto market data, from exchange frames to an index over HTTP.

The folders in flow order:

    exchanges   what each exchange speaks: URLs, symbols, subscribe frames, limits
    collector   connections and local books; frames in, messages out
    bus         messages over ZMQ, journals behind them
    storage     messages into QuestDB
    aggregator  one consolidated book per asset from the books of all venues
    method      the index mathematics, pure functions
    index       one index record per asset and tick
    endpoint    HTTP API, streams and the dashboard
    client      the Python client of that API
    recompute   recompute and verify index records offline
    recording   recordings: the file, the recorder, tools
    simulator   simulated exchanges and replayed recordings; no live process imports it
    observe     state of all processes: status, top, doctor
    bench       benchmarks and profiles of the stages
    _ext        the compiled parts (sources in ext/)
"""

__version__ = "0.1.0"
