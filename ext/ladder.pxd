"""Books of single venues and the ladder merged from them.

Prices float64 in quote currency (books) or index currency (ladders), sizes float64 in base, best first.
"""

from libc.stdint cimport int32_t
from libc.stdint cimport int64_t

cdef enum:
    BID = 0
    ASK = 1


cdef class VenueBook:
    cdef:
        double* memory[2]          # owned; per side `capacity` prices, then `capacity` sizes
        double* spare[2]           # owned; the next state is built here, then swapped in
        Py_ssize_t capacity[2]
        Py_ssize_t n[2]
        readonly Py_ssize_t dropped    # levels of the last load that were not finite or not above zero

    cdef int reserve(self, int side, Py_ssize_t n) except -1
    cdef int copy_in(self, int side, const double* prices, const double* sizes, Py_ssize_t n) except -1
    cdef bint swap(self, int side, Py_ssize_t n) noexcept nogil


cdef class Ladder:
    cdef:
        double* price[2]           # owned
        double* size[2]            # owned
        int32_t* venue[2]          # owned; index into the list of books
        Py_ssize_t capacity[2]
        Py_ssize_t n[2]
        # scratch of the merge
        int64_t* keys              # per venue its prices as ascending integers, closed by LAST
        Py_ssize_t keys_capacity
        const int64_t** key        # per venue: next key
        const double** amount      # per venue: next size
        int64_t* loser_key         # tournament tree, node 1 on top
        int32_t* loser
        int64_t* winner_key
        int32_t* winner
        Py_ssize_t n_slots

    cdef int reserve(self, int side, Py_ssize_t n) except -1
    cdef int reserve_slots(self, Py_ssize_t slots, Py_ssize_t keys) except -1
    cdef void merge_side(self, int side, Py_ssize_t slots) noexcept nogil
