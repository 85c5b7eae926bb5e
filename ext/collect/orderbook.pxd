"""A local order book kept from a snapshot and absolute updates (size 0 deletes a level).

Each side is an array with its best level last and free room at both ends: a change moves the shorter part of the
array, so that its cost follows the distance from the touch, not the depth of the book. Far from both ends a deleted
level stays as a hole of size 0, which a level that comes back or one beside it takes over.
"""

from libc.stdint cimport int64_t

cdef struct Side:
    double *key           # owned: [low, high) ascending to the best; a bid's price, an ask's negated price
    double *size          # owned: base currency; 0 = a hole, never at either end
    Py_ssize_t low        # index of the farthest level
    Py_ssize_t high       # one past the best level
    Py_ssize_t holes      # within [low, high)
    Py_ssize_t room       # elements allocated
    Py_ssize_t limit      # levels kept at most
    double known          # key of the farthest level that is known; -inf = the whole side is known
    double sign           # price = sign * key
    int64_t dropped       # levels beyond the limit, from the far end


cdef class OrderBook:
    cdef:
        Side bid
        Side ask
        readonly Py_ssize_t capacity    # levels per side

    # forget all levels; the whole book counts as known again
    cdef int reset(self) noexcept
    # replace the book; levels best first; a side with `requested` levels or more is known only as far as it reaches
    cdef int load_levels(
        self, const double *bid_price, const double *bid_size, Py_ssize_t n_bids,
        const double *ask_price, const double *ask_size, Py_ssize_t n_asks, Py_ssize_t requested,
    ) noexcept
    # set or delete levels in any order
    cdef int apply_levels(
        self, const double *bid_price, const double *bid_size, Py_ssize_t n_bids,
        const double *ask_price, const double *ask_size, Py_ssize_t n_asks,
    ) noexcept
    cdef bint crossed(self) noexcept
    # copy at most `depth` known levels, best first; returns the levels written
    cdef Py_ssize_t copy_bids(self, double *price, double *size, Py_ssize_t depth) noexcept
    cdef Py_ssize_t copy_asks(self, double *price, double *size, Py_ssize_t depth) noexcept
    # known distance from the mid on the nearer side, as a share of the mid; inf = both sides are known whole
    cdef double known_span(self) noexcept
