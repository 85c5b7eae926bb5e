"""The same work by a library that is installed with CoinSpace, for `coinspace bench`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from coinspace.bench.runs import Feed, Run
from coinspace.config import Settings


@dataclass(frozen=True, slots=True)
class Peer:
    """A library's way; gate and goal: how many times our cost its cost has to be."""

    name: str
    prepare: Callable[[list[Feed], Settings], Run]
    gate: float
    goal: float


def loads(found: list[Feed], _settings: Settings) -> Run:
    """Frames through orjson, which extracts no value; binary frames are no JSON."""
    frames = [frame for one in found for frame in one.frames if frame[:1] in (b"{", b"[")]

    def run() -> None:
        for frame in frames:
            orjson.loads(frame)

    return Run("parse", "", "frame", len(frames), run)


PEERS = {"parse": Peer("orjson.loads", loads, gate=4, goal=5)}
