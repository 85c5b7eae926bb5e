"""Several feeds on one clock: records in order of receive time, straight into stages."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from coinspace.recording.format import FeedReader, Record


def merge(readers: Iterable[FeedReader]) -> Iterator[tuple[FeedReader, Record]]:
    """Yield (reader, record) in order of receive time; equal times keep the order of the readers.

    The same feeds in the same order always give the same sequence. `reader.exchange` names the
    exchange of a record.
    """

    def tagged(reader: FeedReader) -> Iterator[tuple[FeedReader, Record]]:
        for record in reader:
            yield reader, record

    return heapq.merge(*map(tagged, readers), key=lambda pair: pair[1].received_ns)
