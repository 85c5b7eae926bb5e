"""Kinds of values that commands take."""

from __future__ import annotations

import math
from typing import Any

import click

from coinspace.config import EXCHANGES


class Finite(click.FloatRange):
    """A number within a range; "nan" and "inf" are none."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


EXCHANGE = click.Choice(EXCHANGES, case_sensitive=False)
# of waiting or of a recording: above zero, at most some thirty years
SECONDS = Finite(min=0, min_open=True, max=1e9)
# a multiple of something
FACTOR = Finite(min=0, min_open=True, max=1e6)
PORT = click.IntRange(0, 65_535)
