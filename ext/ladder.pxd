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
        uint64_t key
        uint32_t at
        int32_t venue
    void entries_of(
        const double* price, Py_ssize_t n, double rate, uint64_t flip, uint32_t at, int32_t venue, Entry* out
    ) noexcept
    Entry* merge_runs(
        Entry* entries, Entry* other, Py_ssize_t* starts, Py_ssize_t* lengths, Py_ssize_t runs
    ) noexcept
    void entries_taken(
        const Entry* entries, Py_ssize_t n, uint64_t flip, const double** sizes, double* price, double* size,
        int32_t* venue
    ) noexcept
    void merge_pair(const Entry* a, Py_ssize_t n, const Entry* b, Py_ssize_t k, Entry* out) noexcept
    void put_fences(Entry* run, Py_ssize_t n) noexcept
    Py_ssize_t entries_without(const Entry* entries, Py_ssize_t n, int32_t venue, Entry* out) noexcept
    void order_equals(Entry* entries, Py_ssize_t n) noexcept

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
        # what each side was merged from, per venue, and its entries, which begin behind a fence
        Merged* merged[2]          # owned
        Py_ssize_t n_merged[2]     # -1 = not merged from books
        Py_ssize_t merged_capacity
        Entry* kept[2]             # owned
        # scratch of the merge of one side
        Entry* one                 # the venues' levels one behind the other
        Entry* other
        Py_ssize_t entry_capacity  # of these and of the kept ones
        Py_ssize_t* starts         # of each venue's levels in the entries
        Py_ssize_t* lengths
        const double** sizes       # per venue, borrowed from its book

    cdef int reserve(self, int side, Py_ssize_t n) except -1
    cdef int reserve_merged(self, Py_ssize_t n) except -1
    cdef int reserve_entries(self, Py_ssize_t n) except -1
    cdef Py_ssize_t fill(self, int side, VenueBook book, double rate, Py_ssize_t v, Entry* out) noexcept nogil
