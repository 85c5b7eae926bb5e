"""Coinbase Exchange's frames."""

from coinspace._ext.parser cimport Parser

cdef class CoinbaseParser(Parser):
    cdef int _head(self) noexcept
    cdef int _instant(self, int slot, bint needed) noexcept
    cdef int _snapshot(self) noexcept
    cdef int _update(self) noexcept
    cdef int _book(self) noexcept
    cdef int _trade(self, bint repeated) noexcept
    cdef int _ticker(self) noexcept
    cdef int _heartbeat(self) noexcept
    cdef const char *_changes(self, const char *p) noexcept
    cdef const char *_pairs(self, const char *p, bint falling) noexcept
    cdef const char *_level(self, const char *p, bint falling) noexcept
    cdef const char *_change(self, const char *p) noexcept
    cdef const char *_number(self, const char *p, double *out, bint *good) noexcept
    cdef const char *_rest(self, const char *p) noexcept
