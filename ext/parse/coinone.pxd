"""Coinone's frames."""

from coinspace._ext.parser cimport Parser

cdef class CoinoneParser(Parser):
    cdef int channel                   # of the present frame

    cdef int _control(self) noexcept
    cdef int _head(self) noexcept
    cdef int _place(self) noexcept
    cdef int _orderbook(self) noexcept
    cdef int _ticker(self) noexcept
    cdef int _trade(self) noexcept
    cdef const char *_level(self, const char *p, bint falling) noexcept
