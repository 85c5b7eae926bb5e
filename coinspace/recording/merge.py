"""Reads several feeds as one, in order of receive time."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from coinspace.recording.format import FeedReader, Record


def merge(readers: Iterable[FeedReader]) -> Iterator[tuple[FeedReader, Record]]:
    """Yield (reader, record) by receive time; equal times are in the order of the readers.

    The same feeds in the same order always give the same sequence. `reader.exchange` is the
    exchange of the record.
    """

    def tagged(reader: FeedReader) -> Iterator[tuple[FeedReader, Record]]:
        for record in reader:
            yield reader, record

    return heapq.merge(*map(tagged, readers), key=lambda pair: pair[1].received_ns)
