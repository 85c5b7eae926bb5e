"""Books of single venues and the ladder merged from them.

Prices float64 in quote currency (books) or index currency (ladders), sizes float64 in base, best first.
"""

from libc.stdint cimport int32_t
from libc.stdint cimport uint32_t
from libc.stdint cimport uint64_t

cdef extern from "merge.h" nogil:
    enum:
        FENCES    # entries of room that a run takes beside its own
    ctypedef struct Entry:
        pass
    ctypedef struct Run:
        const double* price
        const double* size
        Py_ssize_t n
        double rate
        double best
        double worst
        int32_t venue
    void entries_of(const Run* run, uint64_t flip, Entry* out) noexcept
    Entry* merge_runs(
        Entry* entries, Entry* other, Py_ssize_t* starts, Py_ssize_t* lengths, Py_ssize_t runs
    ) noexcept
    void entries_taken(
        const Entry* entries, Py_ssize_t n, uint64_t flip, const double** sizes, double* price, double* size,
        int32_t* venue
    ) noexcept

cdef extern from "narrow.h" nogil:
    enum:
        MARGIN    # keys of room that a run takes beside its own
    ctypedef struct Level:
        pass
    bint merge_narrow(
        const Run* runs, Py_ssize_t count, int32_t venues, double sign, int32_t* keys, int32_t* other, Level* levels,
        Py_ssize_t* starts, Py_ssize_t* lengths, const Level** next, double* price, double* size, int32_t* venue
    ) noexcept

cdef enum:
    BID = 0
    ASK = 1


cdef class VenueBook:
    cdef:
        double* memory[2]          # owned; per side `capacity` prices, then `capacity` sizes
        double* spare[2]           # owned; the next state is built here, then swapped in
        Py_ssize_t capacity[2]
        Py_ssize_t n[2]
        uint64_t version[2]        # of no other state of any book; 0 = always empty
        readonly Py_ssize_t dropped    # levels of the last load that were not finite or not above zero

    cdef int reserve(self, int side, Py_ssize_t n) except -1
    cdef int copy_in(self, int side, const double* prices, const double* sizes, Py_ssize_t n) except -1
    cdef bint swap(self, int side, Py_ssize_t n) noexcept nogil


ctypedef struct Merged:
    uint64_t version    # of a venue's side, 0 = left out
    double rate


cdef class Ladder:
    cdef:
        uint64_t version           # of no other state of any ladder
        Py_ssize_t n_venues
        double* price[2]           # owned
        double* size[2]            # owned
        int32_t* venue[2]          # owned; index into the list of books
        Py_ssize_t capacity[2]
        Py_ssize_t n[2]
        # what each side was merged from, per venue
        Merged* merged[2]          # owned
        Py_ssize_t n_merged[2]     # -1 = not merged from books
        # scratch of the merge of one side, owned: a venue or a run each,
        Run* runs                  # they point into the books
        Py_ssize_t* starts         # of each run in the entries or keys
        Py_ssize_t* lengths
        const double** sizes
        const Level** next
        Py_ssize_t most_venues
        # a level each
        Entry* one                 # the runs one behind the other
        Entry* other
        int32_t* keys
        int32_t* other_keys
        Level* levels
        Py_ssize_t most_levels     # fences and margins included

    cdef int reserve(self, int side, Py_ssize_t n) except -1
    cdef int reserve_venues(self, Py_ssize_t n) except -1
    cdef int reserve_levels(self, Py_ssize_t n, Py_ssize_t runs) except -1
    cdef Py_ssize_t merge_side(self, int side, list books) except -1
