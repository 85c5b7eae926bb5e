"""Upbit's frames. The parser of Bithumb, whose format is nearly the same, is derived from this one."""

from libc.stdint cimport int64_t

from coinspace._ext.parser cimport Parser

cdef enum:
    TYPE = 0
    CODE = 1
    TIMESTAMP = 2
    STREAM_TYPE = 3
    UNITS = 4
    TRADE_PRICE = 5
    TRADE_VOLUME = 6
    ASK_BID = 7
    SEQUENTIAL_ID = 8
    TRADE_TIMESTAMP = 9
    OPENING_PRICE = 10
    HIGH_PRICE = 11
    LOW_PRICE = 12
    CHANGE_PRICE = 13
    VOLUME_24H = 14
    PRICE_24H = 15
    STATUS_TEXT = 16
    ERROR_OBJECT = 17
    METHOD = 18
    RESULT_MESSAGE = 19
    CONTENT = 20
    VOLUME_DAY = 21
    MARKET_STATE = 22
    SUSPENDED = 23
    DELISTING_DATE = 24

cdef class UpbitParser(Parser):
    cdef int day                       # window of the exchange's tickers

    cdef int other(self) noexcept      # a frame that is not a book, trade or ticker
    cdef int _orderbook(self) noexcept
    cdef int _trade(self) noexcept
    cdef int _ticker(self) noexcept
    cdef int _head(self) noexcept
    cdef const char *_units(self, const char *p, bint *unread) noexcept
    cdef const char *_unit(self, const char *p) noexcept
    cdef int _add_unit(self, const double *values) noexcept
