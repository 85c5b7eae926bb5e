"""Fixtures of the tests that benchmarks use too."""

from tests.conftest import feeds as feeds
