"""Facts beside the price: what an exchange says of its wallets, warnings and trading.

A fact that no public source gives, or whose source is silent, is `unknown`. Facts never change a
price, an index or a share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from coinspace.errors import UNREADABLE, MessageError

# of deposits or withdrawals; partial: open on some networks only
Wallet = Literal["open", "partial", "closed", "unknown"]
# limited: orders of one kind only, such as cancellations
Trading = Literal["open", "limited", "suspended", "unknown"]
# as the exchanges name their steps, ascending
Warning = Literal["none", "caution", "warning", "danger", "unknown"]
LEVELS: tuple[Warning, ...] = ("none", "caution", "warning", "danger")

# bounds of one market's facts
MOST_NETWORKS = 30
MOST_FLAGS = 20
MOST_NOTICES = 5
# bytes of the facts of one market: above what these bounds allow
MOST_BYTES = 64 << 10


class Network(Struct, frozen=True, omit_defaults=True):
    """One network of a coin's wallet; None = the exchange does not say."""

    name: str
    deposit: bool | None = None
    withdraw: bool | None = None


class Notice(Struct, frozen=True):
    """A notice of an exchange that names a coin."""

    ts: int
    category: str
    title: str
    url: str


class Flag(Struct, frozen=True):
    """One warning of a market, as the exchange names it."""

    level: Warning
    name: str


class Facts(Struct, frozen=True, omit_defaults=True):
    """What an exchange says of one market.

    Attributes:
        deposit, withdraw: of the base coin. networks: of its wallet.
        detail: why trading is not open, in the exchange's words.
        flags: names of warnings; `warning` is the highest level.
        delisting: day on which trading ends, as the exchange writes it, "" = none is announced.
        notices: newest first, None = no source.
    """

    deposit: Wallet = "unknown"
    withdraw: Wallet = "unknown"
    trading: Trading = "unknown"
    warning: Warning = "unknown"
    detail: str = ""
    flags: tuple[str, ...] = ()
    delisting: str = ""
    networks: tuple[Network, ...] = ()
    notices: tuple[Notice, ...] | None = None


UNKNOWN = Facts()


class Said(Struct):
    """What one answer of an exchange says; None = it says nothing of that.

    Attributes:
        wallets: coin -> networks. trading: symbol -> state and why; a market that is not there is
            not listed. flags: symbol -> warnings; a market that is not there has none. While rows
            are unread, nothing is known of a market that is not there.
        notices: coin -> notices, newest first. whole: the state of the whole exchange.
        unread: rows left out because they could not be read.
    """

    wallets: Mapping[str, Sequence[Network]] | None = None
    trading: Mapping[str, tuple[Trading, str]] | None = None
    flags: Mapping[str, Sequence[Flag]] | None = None
    notices: Mapping[str, Sequence[Notice]] | None = None
    whole: tuple[Trading, str] | None = None
    unread: int = 0


def wallet(states: Iterable[bool | None]) -> Wallet:
    """Return the state of a wallet over its networks."""
    found = set(states)
    if found == {True}:
        return "open"
    if found == {False}:
        return "closed"
    return "partial" if True in found else "unknown"


def worse(one: Wallet, other: Wallet) -> Wallet:
    """Return the worse one of two states."""
    for state in ("closed", "unknown", "partial"):
        if state in (one, other):
            return state
    return "open"


def transfer(buying: Facts, selling: Facts) -> Wallet:
    """Return whether a coin can be withdrawn at one venue and deposited at the other one."""
    return worse(buying.withdraw, selling.deposit)


def highest(flags: Iterable[Flag]) -> Warning:
    """Return the highest level of some warnings."""
    return max((one.level for one in flags), key=LEVELS.index, default="none")


def encode_facts(found: Facts) -> bytes:
    """Return the payload of a message."""
    return msgspec.json.encode(found)


_decoder = msgspec.json.Decoder(Facts)


def decode_facts(payload: bytes | memoryview) -> Facts:
    """Read the payload of a message. Raises: MessageError."""
    if len(payload) > MOST_BYTES:
        raise MessageError(f"facts: expected at most {MOST_BYTES} bytes, was {len(payload)}")
    try:
        return _decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MessageError(f"facts: {error}") from None


# reading answers

# rows of one answer: several times what the largest exchange has
MOST_ROWS = 50_000
# characters of a name of a coin, a network or a warning, and of a title or an address
NAME_SIZE, TEXT_SIZE = 40, 200
T = TypeVar("T")


def rows(
    found: Any,
    key: Callable[[Any], str],
    read: Callable[[Any], T],
    *,
    empty: bool = False,
) -> tuple[dict[str, list[T]], int]:
    """Return key -> what was read of its rows, and the number of rows that could not be read.

    A key with such a row is left out: what it says is not known.

    Args: empty: whether an empty list is an answer.
    Raises: TypeError for an answer that is not a list; ValueError for one without a readable row.
    """
    if not isinstance(found, list):
        raise TypeError(f"expected a list, was {type(found).__name__}")
    if len(found) > MOST_ROWS or not (found or empty):
        raise ValueError(f"expected 1 to {MOST_ROWS} rows, was {len(found)}")
    read_rows: dict[str, list[T]] = {}
    unclear = set()
    unread = 0
    for row in found:
        name = ""
        try:
            name = key(row)
            one = read(row)
        except UNREADABLE:
            unread += 1
            unclear.add(name)
            continue
        read_rows.setdefault(name, []).append(one)
    for name in unclear:
        read_rows.pop(name, None)
    if unread and not read_rows:
        raise ValueError(f"expected rows that can be read, {unread} cannot")
    return read_rows, unread


def firsts(read: Mapping[str, Sequence[T]]) -> dict[str, T]:
    """Return what the first row of each key says."""
    return {name: parts[0] for name, parts in read.items()}


def name_of(value: Any) -> str:
    """Return a short name. Raises: ValueError for another value."""
    if not isinstance(value, str) or not 0 < len(value) <= NAME_SIZE or not value.isprintable():
        raise ValueError(f"expected a name of at most {NAME_SIZE} characters")
    return value


def text_of(value: Any) -> str:
    """Return a text as one short printable line. Raises: TypeError for another value."""
    if not isinstance(value, str):
        raise TypeError("expected a text")
    return "".join(one if one.isprintable() else " " for one in value[:TEXT_SIZE])


def truth(value: Any) -> bool:
    """Return a JSON truth. Raises: TypeError for another value."""
    if not isinstance(value, bool):
        raise TypeError("expected true or false")
    return value


def is_open(value: Any) -> bool | None:
    """Return a state written as 0 and 1, or as false and true; None for another value."""
    return bool(value) if value in (0, 1) and isinstance(value, int) else None


def networks(found: Iterable[Network]) -> list[Network]:
    """Return each network once; a state that an answer gives in two ways is not known."""
    known: dict[str, Network] = {}
    for one in found:
        before = known.setdefault(one.name, one)
        known[one.name] = Network(
            one.name,
            one.deposit if one.deposit == before.deposit else None,
            one.withdraw if one.withdraw == before.withdraw else None,
        )
    return list(known.values())[:MOST_NETWORKS]
