"""Binance's frames."""

from libc.stdint cimport int64_t

from coinspace._ext.parser cimport Parser

cdef class BinanceParser(Parser):
    cdef:
        dict markets               # symbol to market, for `decode`
        const char *stream         # stream name of the wrapper; empty without a wrapper
        const char *stream_end
        int bid_slot               # slot whose array the bids were read from
        int ask_slot
        int bad_sides              # sides of a diff with an impossible level, as bits

    cdef int _wrapped(self) noexcept
    cdef int _stream_symbol(self) noexcept
    cdef int _payload(self) noexcept
    cdef int _event(self) noexcept
    cdef int _symbol(self) noexcept
    cdef int _sides(self, int bids, int asks) noexcept
    cdef int _diff(self) noexcept
    cdef int _partial(self) noexcept
    cdef int _top(self) noexcept
    cdef int _trade(self, int id_slot) noexcept
    cdef int _ticker(self) noexcept
    cdef const char *_level(self, const char *p, double *price, double *size) noexcept
    cdef const char *_pairs(self, const char *p, bint falling, bint whole, bint *unread) noexcept
    cdef int _add(self, bint falling, bint whole, double price, double size) noexcept
