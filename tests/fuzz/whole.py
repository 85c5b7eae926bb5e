"""Runs inside the sanitised process: the unit and property tests of all compiled modules.

They check memory that comes from outside. Each entry point also runs on mutated inputs, see
`entries`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

import pytest

from tests.fuzz import entries

ROOT = Path(__file__).resolve().parents[2]
COMPILED = sorted(path.stem for path in (ROOT / "ext").rglob("*.pyx"))
# tests that start no process: those of input from outside, and others
OUTSIDE = (
    "fuzz/test_differential.py",
    "property/test_ladder.py",
    "property/test_lines.py",
    "property/test_message.py",
    "property/test_number.py",
    "unit/test_aggregate.py",
    "unit/test_journal.py",
    "unit/test_message.py",
    "unit/test_receiver_bounds.py",
    "unit/test_replay_hostile.py",
    "unit/test_sink.py",
)
FURTHER = (
    "property/test_index_properties.py",
    "property/test_levels.py",
    "property/test_orderbook.py",
    "unit/test_collector_orderbook.py",
    "unit/test_collector_policies.py",
    "unit/test_collector_ticker.py",
    "unit/test_orderbook.py",
    "unit/test_parse_edges.py",
)


def main() -> int:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--inputs", type=int, default=500, help="of each entry point")
    arguments.add_argument("--seed", type=int, default=20261130)
    arguments.add_argument("--short", action="store_true", help="only tests of input from outside")
    options = arguments.parse_args()
    for name in COMPILED:
        found = importlib.import_module(f"coinspace._ext.{name}").__file__ or ""
        assert "asan-all" in found, found
    for entry in entries.entries():
        result = entries.run(entry, options.inputs // entry.cost, options.seed)
        # processor time and memory are dominated by the sanitiser here
        wrong = [fault for fault in result.faults if not fault.startswith("took longer")]
        assert not wrong, (entry.name, wrong, result.example[:300])
    chosen = OUTSIDE if options.short else OUTSIDE + FURTHER
    settings = ["-q", "-x", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    # the sanitised package comes first
    settings.append("--import-mode=append")
    return pytest.main([*settings, *(str(ROOT / "tests" / name) for name in chosen)])


if __name__ == "__main__":
    sys.exit(main())
