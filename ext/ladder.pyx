"""Venue books in, one ladder out: a k-way merge of sorted sides into memory that is kept between ticks.

Levels of a ladder are ordered by price (best first), then by the position of their venue in the list of books; equal
prices are not summed, since the size cap works on each venue's own level.
"""

import numpy as np

from cpython.mem cimport PyMem_Free
from cpython.mem cimport PyMem_Malloc
from cpython.mem cimport PyMem_Realloc
from cython cimport final
from libc.math cimport isfinite
from libc.stdint cimport INT64_MAX
from libc.stdint cimport int32_t
from libc.stdint cimport int64_t
from libc.string cimport memcmp
from libc.string cimport memcpy

cdef enum:
    SMALL = 64    # levels reserved at first; grows by doubling


# beyond the bits of every double
cdef int64_t LAST = INT64_MAX


cdef bint _usable(double price, double size) noexcept nogil:
    return price > 0 and size > 0 and isfinite(price) and isfinite(size)


@final
cdef class VenueBook:
    """The last state of one venue's book, cleaned: finite, above zero, best first."""

    def __cinit__(self):
        cdef int side
        for side in range(2):
            self.memory[side] = NULL
            self.spare[side] = NULL
            self.capacity[side] = 0
            self.n[side] = 0
        self.dropped = 0

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
        # returns whether the side differs from the one before
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
        return changed

    cdef int copy_in(self, int side, const double* prices, const double* sizes, Py_ssize_t n) except -1:
        # 1 = changed; drops what is not usable and falls back to a stable sort where the order is wrong
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

        Levels that are not finite or not above zero are dropped (counted in `dropped`), a wrong order is mended.
        Returns: whether the book differs from the one before.
        """
        cdef bint changed = False
        if bids.shape[0] != 2 or asks.shape[0] != 2:
            raise ValueError(f"book side: expected shape (2, n), was ({bids.shape[0]}, …) and ({asks.shape[0]}, …)")
        self.dropped = 0
        cdef Py_ssize_t n = bids.shape[1]
        if n:
            changed |= self.copy_in(BID, &bids[0, 0], &bids[1, 0], n)
        else:
            changed |= self.n[BID] > 0
            self.n[BID] = 0
        n = asks.shape[1]
        if n:
            changed |= self.copy_in(ASK, &asks[0, 0], &asks[1, 0], n)
        else:
            changed |= self.n[ASK] > 0
            self.n[ASK] = 0
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


@final
cdef class Ladder:
    """Both sides merged over venues: price, size and venue of every level."""

    def __cinit__(self):
        cdef int side
        for side in range(2):
            self.price[side] = NULL
            self.size[side] = NULL
            self.venue[side] = NULL
            self.capacity[side] = 0
            self.n[side] = 0
        self.keys = NULL
        self.key = NULL
        self.amount = NULL
        self.loser_key = NULL
        self.loser = NULL
        self.winner_key = NULL
        self.winner = NULL
        self.keys_capacity = 0
        self.n_slots = 0

    def __dealloc__(self):
        cdef int side
        for side in range(2):
            PyMem_Free(self.price[side])
            PyMem_Free(self.size[side])
            PyMem_Free(self.venue[side])
        PyMem_Free(self.keys)
        PyMem_Free(self.key)
        PyMem_Free(self.amount)
        PyMem_Free(self.loser_key)
        PyMem_Free(self.loser)
        PyMem_Free(self.winner_key)
        PyMem_Free(self.winner)

    cdef int reserve(self, int side, Py_ssize_t n) except -1:
        cdef Py_ssize_t capacity = max(self.capacity[side], SMALL)
        cdef void* memory
        if n <= self.capacity[side]:
            return 0
        while capacity < n:
            capacity *= 2
        memory = PyMem_Realloc(self.price[side], capacity * sizeof(double))
        if memory == NULL:
            raise MemoryError
        self.price[side] = <double*>memory
        memory = PyMem_Realloc(self.size[side], capacity * sizeof(double))
        if memory == NULL:
            raise MemoryError
        self.size[side] = <double*>memory
        memory = PyMem_Realloc(self.venue[side], capacity * sizeof(int32_t))
        if memory == NULL:
            raise MemoryError
        self.venue[side] = <int32_t*>memory
        self.capacity[side] = capacity
        return 0

    cdef int reserve_slots(self, Py_ssize_t slots, Py_ssize_t keys) except -1:
        if keys > self.keys_capacity:
            PyMem_Free(self.keys)
            self.keys_capacity = 0
            self.keys = <int64_t*>PyMem_Malloc(2 * keys * sizeof(int64_t))
            if self.keys == NULL:
                raise MemoryError
            self.keys_capacity = 2 * keys
        if slots <= self.n_slots:
            return 0
        PyMem_Free(self.key)
        PyMem_Free(self.amount)
        PyMem_Free(self.loser_key)
        PyMem_Free(self.loser)
        PyMem_Free(self.winner_key)
        PyMem_Free(self.winner)
        self.n_slots = 0
        self.key = <const int64_t**>PyMem_Malloc(slots * sizeof(double*))
        self.amount = <const double**>PyMem_Malloc(slots * sizeof(double*))
        self.loser_key = <int64_t*>PyMem_Malloc(slots * sizeof(int64_t))
        self.loser = <int32_t*>PyMem_Malloc(slots * sizeof(int32_t))
        self.winner_key = <int64_t*>PyMem_Malloc(2 * slots * sizeof(int64_t))
        self.winner = <int32_t*>PyMem_Malloc(2 * slots * sizeof(int32_t))
        if (
            self.key == NULL or self.amount == NULL or self.loser_key == NULL or self.loser == NULL
            or self.winner_key == NULL or self.winner == NULL
        ):
            raise MemoryError
        self.n_slots = slots
        return 0

    cdef void merge_side(self, int side, Py_ssize_t slots) noexcept nogil:
        # A tree of losers: the nodes above a venue are known before the comparisons, so their loads do not wait
        # for each other, and the swaps are masks: which venue comes next cannot be predicted.
        cdef double* price = self.price[side]
        cdef double* size = self.size[side]
        cdef int32_t* venue = self.venue[side]
        cdef const int64_t** key = self.key
        cdef const double** amount = self.amount
        cdef int64_t* loser_key = self.loser_key
        cdef int32_t* loser = self.loser
        cdef int64_t* winner_key = self.winner_key
        cdef int32_t* winner = self.winner
        cdef int64_t sign = -1 if side == BID else 1
        cdef int64_t best, other, bits, mask
        cdef Py_ssize_t n = 0, node
        cdef int32_t v, w, left, exchanged
        cdef bint swap
        for node in range(slots):
            winner_key[slots + node] = key[node][0]
            winner[slots + node] = <int32_t>node
        for node in range(slots - 1, 0, -1):
            # equal prices: the left one, whose venue comes first
            swap = winner_key[2 * node + 1] < winner_key[2 * node]
            left = <int32_t>(2 * node)
            winner_key[node] = winner_key[left + swap]
            winner[node] = winner[left + swap]
            loser_key[node] = winner_key[left + 1 - swap]
            loser[node] = winner[left + 1 - swap]
        best = winner_key[1]
        v = winner[1]
        while best != LAST:
            bits = sign * best
            memcpy(&price[n], &bits, sizeof(double))
            size[n] = amount[v][0]
            venue[n] = v
            n += 1
            key[v] += 1
            amount[v] += 1
            best = key[v][0]
            node = (v + slots) >> 1
            while node:
                other = loser_key[node]
                w = loser[node]
                mask = -<int64_t>((other < best) | ((other == best) & (w < v)))
                bits = (best ^ other) & mask
                best ^= bits
                loser_key[node] = other ^ bits
                exchanged = (v ^ w) & <int32_t>mask
                v ^= exchanged
                loser[node] = w ^ exchanged
                node >>= 1
        # a quotient can vanish or overflow at the far end
        while n and not (price[n - 1] > 0 and isfinite(price[n - 1])):
            n -= 1
        self.n[side] = n

    def merge(self, list books not None, list rates not None):
        """Merge the books of venues, given in the order of their names.

        Args:
            books: VenueBook per venue; None leaves a venue out.
            rates: units of the venue's quote currency per unit of index currency, finite and above zero.
        """
        cdef Py_ssize_t k = len(books), v, i, n, total, slots = 2
        cdef int side
        cdef double rate, quotient
        cdef int64_t sign, bits
        cdef int64_t* keys
        cdef const double* prices
        cdef VenueBook book
        if len(rates) != k:
            raise ValueError(f"rates: expected one per book ({k}), was {len(rates)}")
        while slots < k:
            slots *= 2
        for side in range(2):
            total = 0
            for v in range(k):
                if books[v] is not None:
                    book = books[v]
                    total += book.n[side]
            self.reserve(side, total)
            self.reserve_slots(slots, total + slots)
            keys = self.keys
            sign = -1 if side == BID else 1
            for v in range(slots):
                self.key[v] = keys
                n = 0
                if v < k and books[v] is not None:
                    book = books[v]
                    rate = rates[v]
                    n = book.n[side]
                    prices = book.memory[side]
                    self.amount[v] = prices + book.capacity[side]
                    for i in range(n):
                        # the bits of positive doubles are ordered as the doubles are
                        quotient = prices[i] / rate
                        memcpy(&bits, &quotient, sizeof(double))
                        keys[i] = sign * bits
                keys[n] = LAST
                keys += n + 1
            self.merge_side(side, slots)

    def load(self, int side, const double[::1] prices not None, const double[::1] sizes not None,
             const int[::1] venues not None):
        """Replace one side (0 bids, 1 asks) by levels that are merged already."""
        cdef Py_ssize_t n = prices.shape[0]
        if sizes.shape[0] != n or venues.shape[0] != n:
            raise ValueError(f"ladder side: expected {n} sizes and venues, was {sizes.shape[0]} and {venues.shape[0]}")
        self.reserve(side, n)
        if n:
            memcpy(self.price[side], &prices[0], n * sizeof(double))
            memcpy(self.size[side], &sizes[0], n * sizeof(double))
            memcpy(self.venue[side], &venues[0], n * sizeof(int32_t))
        self.n[side] = n

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
