"""One ladder in; size cap, price-volume curve, utilised depth, value and shares out (methodology 4 to 7, 10)."""

from libc.stdint cimport int32_t

from coinspace._ext.ladder cimport Ladder


cdef class Curve:
    cdef:
        # parameters, fixed at construction
        readonly double max_spread
        readonly double spacing          # 0 = integral mode, else the grid's step in base
        readonly bint cut                # cut the utilised depth at the coverage depth
        readonly double decay            # lambda = 1 / (decay * utilised depth)
        readonly double cap_band
        readonly Py_ssize_t cap_min_per_side
        readonly double cap_trim
        readonly double cap_sigmas
        # results of the last compute
        readonly double size_cap         # base
        readonly double coverage_depth   # base
        readonly double full_depth       # utilised depth before the cut, base
        readonly double depth            # utilised depth, base
        readonly double rate             # lambda, per base
        readonly double value
        readonly double value_full
        readonly bint exhausted          # a side ended before the spread limit
        readonly double best_bid
        readonly double best_ask
        # used levels of both sides, owned
        double* price[2]
        double* raw[2]
        double* size[2]                  # capped
        double* total[2]                 # cumulative capped size; on the grid: its last point
        int32_t* venue[2]
        int32_t* group[2]                # levels of equal price share a group
        double* weight[2]                # per group
        Py_ssize_t capacity[2]
        Py_ssize_t n[2]
        # segments (from the end of the one before, to `end`] of constant prices
        double* end
        double* mid
        double* share_weight
        int32_t* bid_level
        int32_t* ask_level
        Py_ssize_t segment_capacity
        Py_ssize_t n_segments
        Py_ssize_t n_weighted            # segments up to the utilised depth
        double* sample
        double* low                      # heap of the smallest sizes
        double* high                     # heap of the largest sizes
        Py_ssize_t sample_capacity
        Py_ssize_t heap_capacity
        double scale                     # power of two that keeps sums of absurd sizes finite
        Py_ssize_t n_venues
        double* share                    # per venue
        double* last                     # per venue: price of its last level

    cdef int reserve(self, Ladder ladder, Py_ssize_t n_venues) except -1
    cdef void take(self, int side, Ladder ladder, const unsigned char* used) noexcept nogil
    cdef void rescale(self) noexcept nogil
    cdef double cap(self) noexcept nogil
    cdef double accumulate(self, int side, double cap) noexcept nogil
    cdef bint walk(self) noexcept nogil
    cdef double weigh(self, double depth, bint keep) noexcept nogil
    cdef void attribute(self, double norm) noexcept nogil
