"""A local order book from a snapshot and absolute updates (size 0 deletes a level).

Each side is an array with its best level last and free room at both ends. A change moves the shorter part of the array,
so its cost depends on the distance from the best price, not on the depth of the book. Far from both ends, a deleted
level stays as a hole of size 0, which the same level or a level beside it fills later.
"""

from libc.stdint cimport int64_t

cdef struct Side:
    double *key           # owned: [low, high) ascending to the best; a bid's price, an ask's negated price
    double *size          # owned: base currency; 0 = a hole, never at either end
    Py_ssize_t low        # index of the farthest level
    Py_ssize_t high       # one past the best level
    Py_ssize_t holes      # number of holes within [low, high)
    Py_ssize_t room       # allocated elements
    Py_ssize_t limit      # levels kept at most
    double known          # key of the farthest known level; -inf = the whole side is known
    double sign           # price = sign * key
    int64_t dropped       # levels dropped at the far end because of the limit


cdef class OrderBook:
    cdef:
        Side bid
        Side ask
        readonly Py_ssize_t capacity    # levels per side

    # forget all levels; the whole book counts as known again
    cdef int reset(self) noexcept
    # replace the book; levels best first; a side with `requested` levels or more is known only down to its last level
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
    # known distance from the mid on the nearer side, as a share of the mid; inf = both sides are wholly known
    cdef double known_span(self) noexcept
