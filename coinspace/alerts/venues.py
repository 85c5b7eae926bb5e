"""Which venues deliver: from the states and heartbeats of the collectors of order books."""

from __future__ import annotations

from typing import Any

from coinspace._ext.message import HEARTBEAT, STATE, Message
from coinspace.clock import SECOND_NS
from coinspace.config import Settings
from coinspace.constituents import named

COLLECTOR = "orderbook-collector-"
SYNCED = "synced"
# a collector that is silent for longer delivers nothing; it has a heartbeat a second
SILENT_NS = 5 * SECOND_NS
# of one exchange: many times what the largest one lists
MARKETS_KEPT = 10_000


class Venues:
    """The states of all collected markets. Times are ns of the monotonic clock."""

    def __init__(self, settings: Settings, now: int) -> None:
        exchanges = settings.collected
        self._heard = dict.fromkeys(exchanges, now)
        self._states: dict[str, dict[str, str]] = {
            exchange: dict.fromkeys(named(settings, exchange), "not known yet")
            for exchange in exchanges
        }
        self.malformed = 0

    @property
    def publishers(self) -> list[str]:
        return [COLLECTOR + exchange for exchange in self._heard]

    def on_message(self, message: Message, now: int) -> None:
        """Take a state or a heartbeat; a malformed one is counted and ignored."""
        try:
            if message.kind == STATE:
                facts = message.json()
                self._set(message.exchange, message.market, facts["state"])
            elif message.kind == HEARTBEAT:
                self._beat(message.json(), now)
        except (ValueError, LookupError, TypeError, AttributeError):
            self.malformed += 1

    def _beat(self, beat: dict[str, Any], now: int) -> None:
        exchange = str(beat["process"]).removeprefix(COLLECTOR)
        if exchange not in self._heard or beat["process"] != COLLECTOR + exchange:
            return
        self._heard[exchange] = now
        found = beat["states"]
        if found:
            # markets that are not collected any more are absent
            self._states[exchange] = {}
        for market, state in found.items():
            self._set(exchange, market, state)

    def _set(self, exchange: str, market: str, state: object) -> None:
        states = self._states.get(exchange)
        if not isinstance(state, str):
            raise TypeError(f"state: expected a text, was {type(state).__name__}")
        if states is not None and (market in states or len(states) < MARKETS_KEPT):
            states[market] = state

    def problems(self, now: int) -> dict[str, str | None]:
        """Return EXCHANGE:BASE/QUOTE -> why it delivers nothing, None = it does."""
        found: dict[str, str | None] = {}
        for exchange, states in self._states.items():
            silent = now - self._heard[exchange] > SILENT_NS
            for market, state in states.items():
                why = "without a heartbeat of its collector" if silent else state
                found[f"{exchange}:{market}"] = None if why == SYNCED else why
        return found
