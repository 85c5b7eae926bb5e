"""Durations counted in fixed ranges: a histogram whose `add` allocates nothing."""

cimport cython

from libc.stdint cimport int64_t

cdef enum:
    N_BOUNDS = 21


@cython.final
cdef class Latency:
    cdef:
        int64_t _counts[N_BOUNDS + 1]  # by range; the last one is above all bounds
        int64_t _total_ns
        int64_t _least_ns              # since the last `take_least_ns`

    cdef int add(self, int64_t ns) noexcept
