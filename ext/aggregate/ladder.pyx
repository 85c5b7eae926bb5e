"""Venue books in, one ladder out: a merge of sorted sides into memory that is reused between ticks.

Levels of a ladder are sorted by price (best first), then by the position of their venue in the list of books. Equal
prices are not summed, because the size cap works on each venue's level.
"""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cython cimport final
from libc.math cimport isfinite
from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, int64_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from coinspace._ext.memory cimport grow

cdef enum:
    SMALL = 64    # levels reserved at first; grows by doubling
    FENCES = 2    # extra levels of room per run

# the last version of any book's side or ladder
cdef uint64_t _version = 0


cdef uint64_t _next_version() noexcept nogil:
    global _version
    _version += 1
    return _version


cdef bint _usable(double price, double size) noexcept nogil:
    return price > 0 and size > 0 and isfinite(price) and isfinite(size)


@final
cdef class VenueBook:
    """The last state of one venue's book, cleaned: finite, above zero, best first."""

    def __dealloc__(self):
        cdef int side
        for side in range(2):
            PyMem_Free(self.memory[side])
            PyMem_Free(self.spare[side])

    cdef int reserve(self, int side, Py_ssize_t n) except -1:
        cdef Py_ssize_t capacity = max(self.capacity[side], SMALL)
        cdef double* memory
        cdef double* spare
        if n <= self.capacity[side]:
            return 0
        while capacity < n:
            capacity *= 2
        memory = <double*>PyMem_Malloc(2 * capacity * sizeof(double))
        spare = <double*>PyMem_Malloc(2 * capacity * sizeof(double))
        if memory == NULL or spare == NULL:
            PyMem_Free(memory)
            PyMem_Free(spare)
            raise MemoryError
        if self.n[side]:
            memcpy(memory, self.memory[side], self.n[side] * sizeof(double))
            memcpy(memory + capacity, self.memory[side] + self.capacity[side], self.n[side] * sizeof(double))
        PyMem_Free(self.memory[side])
        PyMem_Free(self.spare[side])
        self.memory[side] = memory
        self.spare[side] = spare
        self.capacity[side] = capacity
        return 0

    cdef bint swap(self, int side, Py_ssize_t n) noexcept nogil:
        # returns whether the new side differs from the old one
        cdef Py_ssize_t capacity = self.capacity[side]
        cdef double* old = self.memory[side]
        cdef double* new = self.spare[side]
        cdef bint changed = n != self.n[side]
        if not changed and n:
            changed = (
                memcmp(old, new, n * sizeof(double)) != 0
                or memcmp(old + capacity, new + capacity, n * sizeof(double)) != 0
            )
        self.memory[side] = new
        self.spare[side] = old
        self.n[side] = n
        if changed:
            self.version[side] = _next_version()
        return changed

    cdef int copy_in(self, int side, const double* prices, const double* sizes, Py_ssize_t n) except -1:
        # 1 = changed; drops unusable levels, and sorts them (stable) where the order is wrong
        self.reserve(side, n)
        cdef double* price = self.spare[side]
        cdef double* size = price + self.capacity[side]
        cdef Py_ssize_t i, kept = 0
        cdef bint ordered = True
        for i in range(n):
            if not _usable(prices[i], sizes[i]):
                continue
            price[kept] = prices[i]
            size[kept] = sizes[i]
            if kept and (price[kept] > price[kept - 1] if side == BID else price[kept] < price[kept - 1]):
                ordered = False
            kept += 1
        self.dropped += n - kept
        if not ordered:
            all_prices = np.asarray(<double[:kept]>price).copy()
            all_sizes = np.asarray(<double[:kept]>size).copy()
            order = np.argsort(-all_prices if side == BID else all_prices, kind="stable")
            for i in range(kept):
                price[i] = all_prices[order[i]]
                size[i] = all_sizes[order[i]]
        return self.swap(side, kept)

    def load(self, const double[:, ::1] bids not None, const double[:, ::1] asks not None):
        """Replace the book: float64[2, n] each, row 0 prices, row 1 sizes.

        Levels that are not finite or not above zero are dropped and counted in `dropped`; a wrong order is repaired.
        Returns: whether the new book differs from the old one.
        """
        cdef bint changed = False
        if bids.shape[0] != 2 or asks.shape[0] != 2:
            raise ValueError(f"book side: expected shape (2, n), was ({bids.shape[0]}, …) and ({asks.shape[0]}, …)")
        self.dropped = 0
        cdef Py_ssize_t n = bids.shape[1]
        changed |= self.copy_in(BID, &bids[0, 0], &bids[1, 0], n) if n else self.swap(BID, 0)
        n = asks.shape[1]
        changed |= self.copy_in(ASK, &asks[0, 0], &asks[1, 0], n) if n else self.swap(ASK, 0)
        return changed

    @property
    def n_bids(self):
        return self.n[BID]

    @property
    def n_asks(self):
        return self.n[ASK]

    @property
    def best_bid(self):
        """Best bid price, 0.0 for an empty side."""
        return self.memory[BID][0] if self.n[BID] else 0.0

    @property
    def best_ask(self):
        """Best ask price, 0.0 for an empty side."""
        return self.memory[ASK][0] if self.n[ASK] else 0.0

    def side_copy(self, int side):
        """Return float64[2, n] of a side (0 bids, 1 asks)."""
        cdef Py_ssize_t n = self.n[side]
        out = np.empty((2, n))
        cdef double[:, ::1] view = out
        if n:
            memcpy(&view[0, 0], self.memory[side], n * sizeof(double))
            memcpy(&view[1, 0], self.memory[side] + self.capacity[side], n * sizeof(double))
        return out


cdef inline Py_ssize_t padded(Py_ssize_t n) noexcept nogil:
    # bytes of n venue indices
    return (n * <Py_ssize_t>sizeof(int32_t) + 7) & ~7


cdef inline Py_ssize_t packed_size(Py_ssize_t n) noexcept nogil:
    return 2 * n * <Py_ssize_t>sizeof(double) + padded(n)


cdef inline int64_t key_of(double price, int side) noexcept nogil:
    # the bits of positive doubles, read as integers, have the order of the doubles
    cdef int64_t bits
    memcpy(&bits, &price, sizeof(double))
    return bits if side == ASK else -bits


cdef inline double price_of(int64_t key, int side) noexcept nogil:
    cdef int64_t bits = key if side == ASK else -key
    cdef double price
    memcpy(&price, &bits, sizeof(double))
    return price


cdef Py_ssize_t levels_of(VenueBook book, int side, double rate, int32_t venue, Level* out) noexcept nogil:
    # Writes a venue's levels between their fences; returns how many. Quotients that overflow or become 0 are at an end.
    cdef const double* prices = book.memory[side]
    cdef Py_ssize_t i, first = 0, end = book.n[side]
    while first < end and not _usable(prices[first] / rate, 1.0):
        first += 1
    while first < end and not _usable(prices[end - 1] / rate, 1.0):
        end -= 1
    for i in range(first, end):
        out[i - first].key = key_of(prices[i] / rate, side)
        out[i - first].venue = venue
        out[i - first].place = <int32_t>i
    set_fences(out, end - first)
    return end - first


cdef void set_fences(Level* run, Py_ssize_t n) noexcept nogil:
    # before and after a run: a merge reads them once the run is used up
    (run - 1).key, (run + n).key = INT64_MIN, INT64_MAX


cdef void merge_two(const Level* a, Py_ssize_t n, const Level* b, Py_ssize_t m, Level* out) noexcept nogil:
    # Merges two runs, each between its fences; of equal keys the left run comes first. The processor cannot predict the
    # next run, so a mask chooses it: of a condition the compiler makes a branch. Half of the levels are merged from the
    # beginnings and half from the ends, because a step waits for its previous step.
    cdef const Level* last_a = a + n - 1
    cdef const Level* last_b = b + m - 1
    cdef Py_ssize_t i, right, left, total = n + m
    for i in range(total - total // 2):
        right = b.key < a.key
        out[i] = a[(b - a) & -right]
        b += right
        a += right ^ 1
        left = last_b.key < last_a.key
        out[total - 1 - i] = last_b[(last_a - last_b) & -left]
        last_a -= left
        last_b -= left ^ 1
    set_fences(out, total)


@final
cdef class Ladder:
    """Both sides merged over venues: price, size and venue of every level."""

    def __cinit__(self):
        self.n_merged[BID] = self.n_merged[ASK] = -1
        self.version = _next_version()

    def __dealloc__(self):
        cdef int side
        for side in range(2):
            PyMem_Free(self.price[side])
            PyMem_Free(self.size[side])
            PyMem_Free(self.venue[side])
            PyMem_Free(self.merged[side])
        PyMem_Free(self.levels)
        PyMem_Free(self.other)
        PyMem_Free(self.starts)
        PyMem_Free(self.sizes)

    cdef int reserve(self, int side, Py_ssize_t n) except -1:
        cdef Py_ssize_t capacity = max(self.capacity[side], SMALL)
        if n <= self.capacity[side]:
            return 0
        while capacity < n:
            capacity *= 2
        grow(<void**>&self.price[side], capacity, sizeof(double))
        grow(<void**>&self.size[side], capacity, sizeof(double))
        grow(<void**>&self.venue[side], capacity, sizeof(int32_t))
        self.capacity[side] = capacity
        return 0

    cdef int reserve_venues(self, Py_ssize_t n) except -1:
        cdef int side
        if n <= self.most_venues:
            return 0
        for side in range(2):
            grow(<void**>&self.merged[side], n, sizeof(Merged))
        grow(<void**>&self.starts, n, sizeof(Py_ssize_t))
        grow(<void**>&self.sizes, n, sizeof(double*))
        self.most_venues = n
        return 0

    cdef int reserve_levels(self, Py_ssize_t n) except -1:
        if n <= self.most_levels:
            return 0
        grow(<void**>&self.levels, 2 * n, sizeof(Level))
        grow(<void**>&self.other, 2 * n, sizeof(Level))
        self.most_levels = 2 * n
        return 0

    cdef Py_ssize_t merge_range(
        self, int side, list books, Py_ssize_t low, Py_ssize_t high, Level* out, Level* spare
    ) noexcept:
        # Writes the merged levels of venues low to high - 1 to `out` and uses `spare`; returns how many.
        cdef const Merged* known = self.merged[side]
        cdef Py_ssize_t middle = (low + high) // 2, n, m, room
        if low + 1 == high:
            if known[low].version:
                return levels_of(<VenueBook>books[low], side, known[low].rate, <int32_t>low, out)
            set_fences(out, 0)
            return 0
        room = self.starts[middle] - self.starts[low]
        n = self.merge_range(side, books, low, middle, spare, out)
        m = self.merge_range(side, books, middle, high, spare + room, out + room)
        merge_two(spare, n, spare + room, m, out)
        return n + m

    cdef Py_ssize_t merge_side(self, int side, list books) noexcept:
        # returns how many levels
        cdef const Level* level = self.levels + 1
        cdef Py_ssize_t i, n = 0
        if self.n_venues:
            n = self.merge_range(side, books, 0, self.n_venues, self.levels + 1, self.other + 1)
        for i in range(n):
            self.price[side][i] = price_of(level.key, side)
            self.size[side][i] = self.sizes[level.venue][level.place]
            self.venue[side][i] = level.venue
            level += 1
        return n

    def merge(self, list books not None, list rates not None):
        """Merge the books of venues, given in the order of their names.

        A side does not change when its books and rates are those of the last merge. A level is dropped when its price
        becomes 0 or overflows by the division by the rate.

        Args:
            books: VenueBook per venue; None excludes a venue.
            rates: units of the venue's quote currency per unit of index currency, finite and above zero.
        """
        cdef Py_ssize_t k = len(books), v, total
        cdef int side
        cdef VenueBook book
        cdef Merged now
        cdef Merged* before
        cdef bint changed
        if len(rates) != k:
            raise ValueError(f"rates: expected one rate per book ({k}), found {len(rates)}")
        self.reserve_venues(k)
        if k != self.n_venues:
            self.n_venues = k
            self.version = _next_version()
        for side in range(2):
            total = 0
            before = self.merged[side]
            changed = self.n_merged[side] != k
            for v in range(k):
                now.version, now.rate = 0, 0.0
                self.starts[v] = total + v * FENCES
                if books[v] is not None:
                    book = books[v]
                    total += book.n[side]
                    self.sizes[v] = book.memory[side] + book.capacity[side]
                    now.version, now.rate = book.version[side], rates[v]
                if changed or before[v].version != now.version or before[v].rate != now.rate:
                    # invalid until the side is merged: a later book or rate may raise, or memory may run out
                    self.n_merged[side] = -1
                    before[v] = now
                    changed = True
            if not changed:
                continue
            self.version = _next_version()
            self.n_merged[side] = -1
            self.reserve(side, total)
            self.reserve_levels(total + FENCES * k)
            self.n[side] = self.merge_side(side, books)
            self.n_merged[side] = k

    def pack(self):
        """Return both sides as bytes: bid prices, bid sizes, ask prices, ask sizes, bid venues, ask venues.

        Venues are int32 and padded to 8 bytes, the others float64.
        """
        cdef bytes packed = PyBytes_FromStringAndSize(NULL, packed_size(self.n[BID]) + packed_size(self.n[ASK]))
        cdef char* out = PyBytes_AS_STRING(packed)
        cdef Py_ssize_t size
        cdef int side
        for side in range(2):
            size = self.n[side] * sizeof(double)
            if size:
                memcpy(out, self.price[side], size)
                memcpy(out + size, self.size[side], size)
            out += 2 * size
        for side in range(2):
            size = padded(self.n[side])
            if size:
                memset(out + size - 8, 0, 8)
                memcpy(out, self.venue[side], self.n[side] * sizeof(int32_t))
            out += size
        return packed

    def unpack(
        self, const unsigned char[::1] packed not None, Py_ssize_t offset, Py_ssize_t n_bids, Py_ssize_t n_asks,
        Py_ssize_t n_venues,
    ):
        """Replace both sides by the output of `pack` at an offset.

        Returns: the offset after it.
        Raises: ValueError when the sides do not fit into the bytes, or a level belongs to no known venue.
        """
        cdef Py_ssize_t[2] n = [n_bids, n_asks]
        cdef Py_ssize_t i, size, room = packed.shape[0] - offset
        cdef const unsigned char* at
        cdef int side
        cdef bint known = True
        if offset < 0 or room < 0 or not 0 <= n_bids <= room or not 0 <= n_asks <= room or (
            packed_size(n_bids) + packed_size(n_asks) > room
        ):
            raise ValueError(
                f"ladder of {n_bids} and {n_asks} levels at {offset}: expected more than {packed.shape[0]} bytes"
            )
        self.version = _next_version()
        self.n_venues = n_venues
        for side in range(2):
            self.n[side] = 0
            self.n_merged[side] = -1
            self.reserve(side, n[side])
        if not n_bids and not n_asks:
            return offset
        at = &packed[0] + offset
        for side in range(2):
            size = n[side] * sizeof(double)
            if size:
                memcpy(self.price[side], at, size)
                memcpy(self.size[side], at + size, size)
            at += 2 * size
        for side in range(2):
            if n[side]:
                memcpy(self.venue[side], at, n[side] * sizeof(int32_t))
            at += padded(n[side])
            for i in range(n[side]):
                known &= 0 <= self.venue[side][i] < n_venues
        if not known:
            raise ValueError(f"venues of a ladder: expected 0 to {n_venues - 1}")
        for side in range(2):
            self.n[side] = n[side]
        return offset + packed_size(n_bids) + packed_size(n_asks)

    @property
    def n_bids(self):
        return self.n[BID]

    @property
    def n_asks(self):
        return self.n[ASK]

    def side_copy(self, int side):
        """Return a side (0 bids, 1 asks): float64[n] prices, float64[n] sizes, int32[n] venues."""
        cdef Py_ssize_t n = self.n[side]
        prices, sizes, venues = np.empty(n), np.empty(n), np.empty(n, dtype=np.int32)
        cdef double[::1] p = prices
        cdef double[::1] q = sizes
        cdef int[::1] v = venues
        if n:
            memcpy(&p[0], self.price[side], n * sizeof(double))
            memcpy(&q[0], self.size[side], n * sizeof(double))
            memcpy(&v[0], self.venue[side], n * sizeof(int32_t))
        return prices, sizes, venues
