"""Options and types of values that need no settings, for commands that must start fast."""

from __future__ import annotations

import math
from typing import Any

import click


class Finite(click.FloatRange):
    """A number within a range; "nan" and "inf" are refused."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number", param, ctx)
        return number


# of waiting or of a recording: above zero, at most about 30 years
SECONDS = Finite(min=0, min_open=True, max=1e9)
# a multiplier, such as the speed of a replay
FACTOR = Finite(min=0, min_open=True, max=1e6)
PORT = click.IntRange(0, 65_535)

config_option = click.option(
    "--config", "config_path", type=click.Path(), default=None, help="coinspace.toml to read"
)
