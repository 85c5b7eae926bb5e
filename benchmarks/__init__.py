"""The cost of each stage, beside the cost of the same work in other libraries.

One `bench_*.py` per stage; each measures through `measure.py`, which says how, and saves its rows
below build/bench, from which `report.py` writes RESULTS.md. `peers/` holds the libraries that need
an environment of their own. Run: `make bench`, `make bench-peers`, `make report`.
"""
