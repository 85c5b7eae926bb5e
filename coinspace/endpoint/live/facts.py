"""The facts beside the price, as the API shows them; old ones are unknown."""

from __future__ import annotations

from coinspace.clock import MILLISECOND_NS
from coinspace.endpoint.live.state import Live
from coinspace.endpoint.models import MarketFacts, MarketNotice, WalletNetwork
from coinspace.exchanges.facts import Facts, Wallet, worse


def market_facts(live: Live, exchange: str, market: str) -> MarketFacts:
    """Return what an exchange says of one market."""
    found, at_ns = live.facts_of(exchange, market)
    return MarketFacts(
        ts=None if at_ns is None else at_ns // MILLISECOND_NS,
        deposit=found.deposit,
        withdraw=found.withdraw,
        networks=[
            WalletNetwork(network=one.name, deposit=one.deposit, withdraw=one.withdraw)
            for one in found.networks
        ],
        trading=found.trading,
        detail=found.detail or None,
        caution=found.warning,
        flags=list(found.flags),
        delisting=found.delisting or None,
        notices=notices(found),
    )


def notices(found: Facts) -> list[MarketNotice] | None:
    """Return the exchange's notices, None without a public source."""
    if found.notices is None:
        return None
    return [
        MarketNotice(ts=one.ts, category=one.category, title=one.title, url=one.url)
        for one in found.notices
    ]


def wallet_state(found: Facts) -> Wallet:
    """Return the state of a wallet in both directions: the worse one."""
    return worse(found.deposit, found.withdraw)
