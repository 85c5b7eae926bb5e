"""One ladder in; size cap, price-volume curve, utilised depth, value and shares out (methodology 4 to 7, 10)."""

from libc.stdint cimport int32_t
from libc.stdint cimport uint64_t

from coinspace._ext.ladder cimport Ladder

cdef extern from "series.h" nogil:
    enum:
        LANES    # doubles that a pass takes at a time
    ctypedef struct Side:
        const double* raw
        double* size
        double* total
        Py_ssize_t n
    double largest_of(const double* x, Py_ssize_t n) noexcept
    double clipped_sum(const double* x, Py_ssize_t n, double low, double high) noexcept
    double clipped_squares(const double* x, Py_ssize_t n, double low, double high, double mean) noexcept
    void extremes_of(
        const double* x, Py_ssize_t n, double low, double high, double* lows, Py_ssize_t* n_lows, double* highs,
        Py_ssize_t* n_highs
    ) noexcept
    void capped_totals(Side bids, Side asks, double cap) noexcept
    bint is_close(double price, double other, double tolerance) noexcept
    Py_ssize_t next_close(const double* price, Py_ssize_t i, Py_ssize_t n, double tolerance) noexcept
    Py_ssize_t count_up_to(const double* x, Py_ssize_t n, double bound) noexcept
    double[64] power_table
    void decays_of(const double* total, Py_ssize_t n, double rate, double* out) noexcept
    double weighted(const double* price, double* decayed, Py_ssize_t n) noexcept
    void add_by_venue(const double* weight, const int32_t* venue, Py_ssize_t n, double* sums) noexcept


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
        # what was computed: a version that no other state has, and which venues
        Ladder ladder
        uint64_t version
        unsigned char* used
        int status
        # used levels of both sides, the ladder's memory or our own
        const double* price[2]
        const double* raw[2]
        const int32_t* venue[2]
        Py_ssize_t n[2]
        # owned
        double* own_price[2]
        double* own_raw[2]
        int32_t* own_venue[2]
        double* size[2]                  # capped
        double* total[2]                 # cumulative capped size; on the grid: its last point
        Py_ssize_t capacity[2]
        double* decayed                  # of one side: 1, then exp(-lambda * total), then weights
        double* small                    # sizes that may be trimmed
        double* large
        double* low                      # heap of the smallest sizes
        double* high                     # heap of the largest sizes
        Py_ssize_t total_capacity
        double low_guess                 # no size above it is looked at for the low end of the trim
        double high_guess
        double scale                     # power of two that keeps sums of absurd sizes finite
        Py_ssize_t n_venues
        unsigned char* seen              # per venue
        double* sums                     # LANES partial weights per venue
        # of the value
        bint weighted                    # whether there is one
        double used_depth
        double used_rate
        double norm

    cdef int reserve(self, Ladder ladder, Py_ssize_t n_venues) except -1
    cdef int calculate(self, Ladder ladder, const unsigned char* used) noexcept nogil
    cdef void take(self, int side, Ladder ladder, const unsigned char* used) noexcept nogil
    cdef void rescale(self) noexcept nogil
    cdef double cap(self) noexcept nogil
    cdef Py_ssize_t near(self, int side) noexcept nogil
    cdef void find_extremes(self, const Py_ssize_t* m, Py_ssize_t* n_small, Py_ssize_t* n_large) noexcept nogil
    cdef double covered(self, int side) noexcept nogil
    cdef void round_to_grid(self, int side) noexcept nogil
    cdef double find_depth(self) noexcept nogil
    cdef double first_end(self, int side, Py_ssize_t low, Py_ssize_t high) noexcept nogil
    cdef bint ends_at(self, double boundary, bint* exhausted) noexcept nogil
    cdef double weigh(self, double depth, bint keep) noexcept nogil
    cdef void attribute(self, int side, Py_ssize_t n) noexcept nogil
