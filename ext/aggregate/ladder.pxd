"""Books of single venues and the ladder merged from them.

Prices float64 in quote currency (books) or index currency (ladders), sizes float64 in base, best first.
"""

from libc.stdint cimport int32_t, int64_t, uint64_t

cdef enum:
    BID = 0
    ASK = 1


cdef class VenueBook:
    cdef:
        double* memory[2]          # owned; per side `capacity` prices, then `capacity` sizes
        double* spare[2]           # owned; the next state is built here, then swapped in
        Py_ssize_t capacity[2]
        Py_ssize_t n[2]
        uint64_t version[2]        # unique to this state of this book; 0 = always empty
        readonly Py_ssize_t dropped    # levels of the last load that were not finite or not above zero

    cdef int reserve(self, int side, Py_ssize_t n) except -1
    cdef int copy_in(self, int side, const double* prices, const double* sizes, Py_ssize_t n) except -1
    cdef bint swap(self, int side, Py_ssize_t n) noexcept nogil


ctypedef struct Level:
    int64_t key      # of the price: on both sides the lowest is the best
    int32_t venue
    int32_t place    # in the venue's book


ctypedef struct Merged:
    uint64_t version    # of a venue's side, 0 = not merged
    double rate


cdef class Ladder:
    cdef:
        uint64_t version           # unique to this state of this ladder
        Py_ssize_t n_venues
        double* price[2]           # owned
        double* size[2]            # owned
        int32_t* venue[2]          # owned; index into the list of books
        Py_ssize_t capacity[2]
        Py_ssize_t n[2]
        # versions and rates from which each side was merged, per venue
        Merged* merged[2]          # owned
        Py_ssize_t n_merged[2]     # -1 = not merged from books
        # scratch of the merge of one side, owned: two buffers with room for each venue's levels and their fences
        Level* levels
        Level* other
        Py_ssize_t most_levels
        Py_ssize_t* starts         # of each venue's room in both buffers
        const double** sizes       # of each venue's book
        Py_ssize_t most_venues

    cdef int reserve(self, int side, Py_ssize_t n) except -1
    cdef int reserve_venues(self, Py_ssize_t n) except -1
    cdef int reserve_levels(self, Py_ssize_t n) except -1
    cdef Py_ssize_t merge_range(
        self, int side, list books, Py_ssize_t low, Py_ssize_t high, Level* out, Level* spare
    ) noexcept
    cdef Py_ssize_t merge_side(self, int side, list books) noexcept
