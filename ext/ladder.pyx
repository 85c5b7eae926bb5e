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
from libc.stdint cimport int32_t
from libc.string cimport memcmp
from libc.string cimport memcpy

cdef enum:
    SMALL = 64    # levels reserved at first; grows by doubling


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


cdef inline bint _before(bint bid, double a, int32_t i, double b, int32_t j) noexcept nogil:
    if a == b:
        return i < j
    return a > b if bid else a < b


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
        self.prices = NULL
        self.sizes = NULL
        self.ends = NULL
        self.head = NULL
        self.rate = NULL
        self.heap = NULL
        self.n_slots = 0

    def __dealloc__(self):
        cdef int side
        for side in range(2):
            PyMem_Free(self.price[side])
            PyMem_Free(self.size[side])
            PyMem_Free(self.venue[side])
        PyMem_Free(self.prices)
        PyMem_Free(self.sizes)
        PyMem_Free(self.ends)
        PyMem_Free(self.head)
        PyMem_Free(self.rate)
        PyMem_Free(self.heap)

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

    cdef int reserve_slots(self, Py_ssize_t n) except -1:
        if n <= self.n_slots:
            return 0
        PyMem_Free(self.prices)
        PyMem_Free(self.sizes)
        PyMem_Free(self.ends)
        PyMem_Free(self.head)
        PyMem_Free(self.rate)
        PyMem_Free(self.heap)
        self.n_slots = 0
        self.prices = <const double**>PyMem_Malloc(n * sizeof(double*))
        self.sizes = <const double**>PyMem_Malloc(n * sizeof(double*))
        self.ends = <const double**>PyMem_Malloc(n * sizeof(double*))
        self.head = <double*>PyMem_Malloc(n * sizeof(double))
        self.rate = <double*>PyMem_Malloc(n * sizeof(double))
        self.heap = <int32_t*>PyMem_Malloc(n * sizeof(int32_t))
        if (
            self.prices == NULL or self.sizes == NULL or self.ends == NULL
            or self.head == NULL or self.rate == NULL or self.heap == NULL
        ):
            raise MemoryError
        self.n_slots = n
        return 0

    cdef void merge_side(self, int side, Py_ssize_t k) noexcept nogil:
        # a binary heap of venues by (head price, position); the winner's run is copied while it stays ahead
        cdef bint bid = side == BID
        cdef double* price = self.price[side]
        cdef double* size = self.size[side]
        cdef int32_t* venue = self.venue[side]
        cdef double* head = self.head
        cdef int32_t* heap = self.heap
        cdef Py_ssize_t n = 0, m = 0, i, child
        cdef int32_t v, w, second
        cdef double value, rate
        cdef const double* p
        cdef const double* q
        cdef const double* end
        for v in range(<int32_t>k):
            if self.prices[v] == self.ends[v]:
                continue
            head[v] = self.prices[v][0] / self.rate[v]
            # sift up
            i = m
            m += 1
            while i and _before(bid, head[v], v, head[heap[(i - 1) >> 1]], heap[(i - 1) >> 1]):
                heap[i] = heap[(i - 1) >> 1]
                i = (i - 1) >> 1
            heap[i] = v
        while m > 1:
            v = heap[0]
            second = heap[1]
            if m > 2 and _before(bid, head[heap[2]], heap[2], head[second], second):
                second = heap[2]
            p = self.prices[v]
            q = self.sizes[v]
            end = self.ends[v]
            rate = self.rate[v]
            value = head[v]
            while True:
                price[n] = value
                size[n] = q[0]
                venue[n] = v
                n += 1
                p += 1
                q += 1
                if p == end:
                    break
                value = p[0] / rate
                if not _before(bid, value, v, head[second], second):
                    break
            self.prices[v] = p
            self.sizes[v] = q
            head[v] = value
            if p == end:
                m -= 1
                v = heap[m]
            # sift down from the root
            i = 0
            while True:
                child = 2 * i + 1
                if child >= m:
                    break
                w = heap[child]
                if child + 1 < m and _before(bid, head[heap[child + 1]], heap[child + 1], head[w], w):
                    child += 1
                    w = heap[child]
                if not _before(bid, head[w], w, head[v], v):
                    break
                heap[i] = w
                i = child
            heap[i] = v
        if m == 1:
            v = heap[0]
            p = self.prices[v]
            q = self.sizes[v]
            rate = self.rate[v]
            while p != self.ends[v]:
                price[n] = p[0] / rate
                size[n] = q[0]
                venue[n] = v
                n += 1
                p += 1
                q += 1
        # a quotient can leave the range of float64 only at the far ends
        while n and not isfinite(price[n - 1]):
            n -= 1
        while n and not price[n - 1] > 0:
            n -= 1
        self.n[side] = n

    def merge(self, list books not None, list rates not None):
        """Merge the books of venues, given in the order of their names.

        Args:
            books: VenueBook per venue; None leaves a venue out.
            rates: units of the venue's quote currency per unit of index currency, finite and above zero.
        """
        cdef Py_ssize_t k = len(books), v, total
        cdef int side
        cdef VenueBook book
        if len(rates) != k:
            raise ValueError(f"rates: expected one per book ({k}), was {len(rates)}")
        self.reserve_slots(k)
        for side in range(2):
            total = 0
            for v in range(k):
                self.prices[v] = NULL
                self.ends[v] = NULL
                if books[v] is None:
                    continue
                book = books[v]
                self.rate[v] = rates[v]
                self.prices[v] = book.memory[side]
                self.sizes[v] = book.memory[side] + book.capacity[side]
                self.ends[v] = book.memory[side] + book.n[side]
                total += book.n[side]
            self.reserve(side, total)
            self.merge_side(side, k)

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
