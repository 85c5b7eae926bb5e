"""Topics as NATS subjects: `ROOT.` and the topic's words, percent-encoded where NATS refuses them.

`ROOT` names the publisher, `coinspace.bus.PROCESS`; it is the endpoint without its scheme.
"""

from __future__ import annotations

from urllib.parse import quote, unquote_to_bytes

from coinspace.bus.topics import VENUE_KINDS

# '/' of a market and what names of processes have; spaces, * and > would mean something to NATS
_KEPT = "/:-_"
_FULL = {kind.encode(): 3 for kind in VENUE_KINDS}


def subject(root: str, topic: bytes) -> str:
    """Return the subject of a topic: `index.BTC.` -> `ROOT.index.BTC`."""
    return f"{root}.{_words(topic)}"


def pattern(root: str, prefix: bytes) -> str:
    """Return the subjects of a prefix of topics; they may include others, never fewer."""
    known, _, _ = prefix.rpartition(b".")
    if not known:
        return f"{root}.>"
    words = known.split(b".")
    whole = prefix.endswith(b".") and len(words) >= _FULL.get(words[0], 2)
    return f"{root}.{_words(known)}" if whole else f"{root}.{_words(known)}.>"


def topic(root: str, subject: str) -> bytes:
    """Return the topic of a subject."""
    return unquote_to_bytes(subject[len(root) + 1 :]) + b"."


def _words(topic: bytes) -> str:
    return ".".join(quote(word, safe=_KEPT) for word in topic.rstrip(b".").split(b"."))
