"""One ladder in; size cap, price-volume curve, utilised depth, value and shares out (methodology 4 to 7, 10)."""

from libc.stdint cimport int32_t, uint64_t

from coinspace._ext.ladder cimport Ladder

cdef extern from "series.h" nogil:
    enum:
        LANES    # doubles per step of a pass
        STEPS    # entries of the power table per halving
    double largest_of(const double* x, Py_ssize_t n) noexcept
    Py_ssize_t values_outside(const double* x, Py_ssize_t n, double low, double high, double* out) noexcept
    double ranked(double* x, Py_ssize_t n, Py_ssize_t k) noexcept
    void add_distances(
        const double* x, Py_ssize_t n, double low, double high, double origin, double* sum, double* squares
    ) noexcept
    void capped_totals(const double* raw, Py_ssize_t n, double cap, double* size, double* total) noexcept
    bint is_close(double price, double other, double tolerance) noexcept
    Py_ssize_t next_close(const double* price, Py_ssize_t i, Py_ssize_t n, double tolerance) noexcept
    Py_ssize_t count_up_to(const double* x, Py_ssize_t n, double bound) noexcept
    double* power_table
    double power_of(double x) noexcept
    double weighted(
        const double* price, const double* total, Py_ssize_t n, double depth, double rate, double* falling
    ) noexcept
    void add_by_venue(const double* falling, const int32_t* venue, Py_ssize_t n, double* sums) noexcept


cdef class Curve:
    cdef:
        # parameters, fixed at construction
        double max_spread
        double spacing                   # 0 = integral mode, else the grid's step in base
        bint cut                         # cut the utilised depth at the coverage depth
        double decay                     # lambda = 1 / (decay * utilised depth)
        double cap_band
        Py_ssize_t cap_min_per_side
        double cap_trim
        double cap_sigmas
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
        # input of the last compute: the ladder's unique version, and the used venues
        Ladder ladder
        uint64_t version
        unsigned char* used
        int status
        # used levels of both sides, in the ladder's memory or in this object's
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
        double* falling                  # of one side: 1, then exp(-lambda * total); weights are its differences
        double* sample                   # sizes that may be trimmed
        double* small                    # those at the low end
        double* large                    # those at the high end
        Py_ssize_t total_capacity
        double low_guess                 # the low end of the trim is first searched below this size
        double high_guess                # the high end is first searched above this size
        double scale                     # power of two that keeps sums of extreme sizes finite
        Py_ssize_t n_venues
        unsigned char* seen              # per venue
        double* sums                     # LANES partial weights per venue
        # weights of the value
        bint weighted                    # whether there is a value
        double used_depth
        double used_rate
        double norm

    cdef int must_hold(self) except -1
    cdef int reserve(self, Ladder ladder, Py_ssize_t n_venues) except -1
    cdef int calculate(self, Ladder ladder, const unsigned char* used) noexcept nogil
    cdef void take(self, int side, Ladder ladder, const unsigned char* used) noexcept nogil
    cdef void rescale(self) noexcept nogil
    cdef double cap(self) noexcept nogil
    cdef Py_ssize_t near(self, int side) noexcept nogil
    cdef void find_trim(self, const Py_ssize_t* m, Py_ssize_t k, double* low, double* high) noexcept nogil
    cdef double covered(self, int side) noexcept nogil
    cdef void round_to_grid(self, int side) noexcept nogil
    cdef double find_depth(self) noexcept nogil
    cdef double first_end(self, int side, Py_ssize_t low, Py_ssize_t high) noexcept nogil
    cdef bint ends_at(
        self, double boundary, const Py_ssize_t* least, const Py_ssize_t* most, Py_ssize_t* passed
    ) noexcept nogil
    cdef bint ended(self, const Py_ssize_t* passed) noexcept nogil
    cdef double weigh(self, double depth, bint keep) noexcept nogil
    cdef void attribute(self, int side, Py_ssize_t n) noexcept nogil
