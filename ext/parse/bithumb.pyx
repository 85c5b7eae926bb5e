"""Bithumb WebSocket frames of the current generation (https://apidocs.bithumb.com): a variant of Upbit's format.

1. A book's `timestamp` is µs (16 digits), all other times are ms; the magnitude shows the unit.
2. At most 15 units. Dust levels have a real price and size 0, padding has price 0 and size 0; both are dropped.
3. Open, high, low and change of a ticker count from 00:00 KST.
4. `sequential_id` has 18 to 19 digits.
5. Frames of the legacy socket (pubwss; `content`, `resmsg`) are refused: its deltas cannot be synchronised with a book.
"""

from coinspace._ext.parser cimport ABSENT, KST_DAY, LEGACY
from coinspace._ext.upbit cimport CONTENT, RESULT_MESSAGE, UpbitParser


cdef class BithumbParser(UpbitParser):
    """Parser of Bithumb's frames."""

    exchange = "bithumb"

    def __init__(self, *args, **kwargs):
        UpbitParser.__init__(self)
        self.day = KST_DAY
        self.plain_level = 1

    cdef int message(self) noexcept:
        if self.slots.type[CONTENT] != ABSENT or self.slots.type[RESULT_MESSAGE] != ABSENT:
            return self.fail(LEGACY, 0, self.message_at)
        return UpbitParser.message(self)
