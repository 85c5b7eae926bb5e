"""The local order book of an exchange that sends updates: levels in, sorted sides out."""

import numpy as np

from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc
from libc.string cimport memmove

# a level deleted further than this from both ends leaves a hole: moving 64 levels costs as much as a search
cdef enum:
    HOLE_DISTANCE = 64
    # a new level looks for a hole up to this distance before it moves the shorter part of the side
    HOLE_REACH = 16

# largest capacity, more than any exchange has: the size of a side in bytes cannot overflow
MOST_LEVELS = 1 << 24


cdef int side_open(Side *side, Py_ssize_t limit, double sign) except -1:
    # free room of a quarter of the limit at each end, so that recentring is rare
    side.limit = limit
    side.room = limit + limit // 2 + 16
    side.sign = sign
    side.dropped = 0
    side.key = <double *>malloc(side.room * sizeof(double))
    side.size = <double *>malloc(side.room * sizeof(double))
    if side.key == NULL or side.size == NULL:
        raise MemoryError()
    side_clear(side)
    return 0


cdef inline void side_clear(Side *side) noexcept nogil:
    side.low = side.high = side.room // 2
    side.holes = 0
    side.known = -INFINITY


cdef inline Py_ssize_t side_find(const Side *side, double key) noexcept nogil:
    # index of the first level at or better than key: growing steps away from the best level, then bisection
    cdef const double *keys = side.key
    cdef Py_ssize_t low = side.low
    cdef Py_ssize_t better = side.high
    cdef Py_ssize_t worse
    cdef Py_ssize_t middle
    cdef Py_ssize_t step = 1
    if better == low or keys[better - 1] < key:
        return better
    better -= 1
    while True:
        worse = better - step
        if worse < low:
            worse = low - 1
            break
        if keys[worse] < key:
            break
        better = worse
        step <<= 1
    while better - worse > 1:
        middle = (better + worse) >> 1
        if keys[middle] < key:
            worse = middle
        else:
            better = middle
    return better


cdef void side_centre(Side *side) noexcept nogil:
    cdef Py_ssize_t n = side.high - side.low
    cdef Py_ssize_t low = (side.room - n) // 2
    memmove(side.key + low, side.key + side.low, n * sizeof(double))
    memmove(side.size + low, side.size + side.low, n * sizeof(double))
    side.low = low
    side.high = low + n


cdef inline void side_shift(Side *side, Py_ssize_t start, Py_ssize_t end, Py_ssize_t by) noexcept nogil:
    cdef size_t size = <size_t>(end - start) * sizeof(double)
    memmove(side.key + start + by, side.key + start, size)
    memmove(side.size + start + by, side.size + start, size)


cdef inline void side_narrow(Side *side) noexcept nogil:
    # a level was dropped at the far end: everything beyond the last kept level is unknown from now on
    if side.key[side.low] > side.known:
        side.known = side.key[side.low]


cdef inline void side_trim(Side *side) noexcept nogil:
    while side.high > side.low and side.size[side.high - 1] == 0:
        side.high -= 1
        side.holes -= 1
    while side.high > side.low and side.size[side.low] == 0:
        side.low += 1
        side.holes -= 1


cdef void side_compact(Side *side) noexcept nogil:
    cdef Py_ssize_t i
    cdef Py_ssize_t n = side.low
    for i in range(side.low, side.high):
        side.key[n] = side.key[i]
        side.size[n] = side.size[i]
        n += side.size[i] != 0
    side.high = n
    side.holes = 0


cdef inline void side_delete(Side *side, Py_ssize_t i) noexcept nogil:
    cdef Py_ssize_t better = side.high - i
    cdef Py_ssize_t worse = i - side.low
    if better > HOLE_DISTANCE and worse > HOLE_DISTANCE:
        side.size[i] = 0
        side.holes += 1
        if side.holes > HOLE_DISTANCE and side.holes > (side.high - side.low) // 4:
            side_compact(side)
        return
    if better <= worse:
        side_shift(side, i + 1, side.high, -1)
        side.high -= 1
    else:
        side_shift(side, side.low, i, 1)
        side.low += 1
    if side.holes:
        side_trim(side)


cdef inline bint side_fill_hole(Side *side, Py_ssize_t i, double key, double size) noexcept nogil:
    # put a level before i into the nearest hole; only the levels in between move
    cdef Py_ssize_t hole
    cdef Py_ssize_t step
    for step in range(HOLE_REACH):
        hole = i + step
        if hole < side.high and side.size[hole] == 0:
            side_shift(side, i, hole, 1)
            break
        hole = i - 1 - step
        if hole >= side.low and side.size[hole] == 0:
            side_shift(side, hole + 1, i, -1)
            i -= 1
            break
    else:
        return False
    side.key[i] = key
    side.size[i] = size
    side.holes -= 1
    return True


cdef inline void side_set(Side *side, double price, double size) noexcept nogil:
    cdef double key = side.sign * price
    cdef Py_ssize_t i = side_find(side, key)
    cdef bint full
    if i < side.high and side.key[i] == key:
        if size > 0:
            if side.size[i] != 0 or side.high - side.low - side.holes < side.limit:
                side.holes -= side.size[i] == 0
                side.size[i] = size
                return
        else:
            if side.size[i] != 0:
                side_delete(side, i)
            return
    # deleting an absent level is normal: it lay outside the snapshot
    elif not size > 0:
        return
    full = side.high - side.low - side.holes >= side.limit
    if full:
        side.dropped += 1
        if i == side.low:
            side_narrow(side)
            return
        side.low += 1
        side_trim(side)
        if i < side.high and side.key[i] == key:
            # the level fills the hole that it left
            side.holes -= 1
            side.size[i] = size
            side_narrow(side)
            return
    if side.holes and side_fill_hole(side, i, key, size):
        if full:
            side_narrow(side)
        return
    if side.low == 0 or side.high == side.room:
        i -= side.low
        side_centre(side)
        i += side.low
    if side.high - i <= i - side.low:
        side_shift(side, i, side.high, 1)
        side.high += 1
    else:
        side_shift(side, side.low, i, -1)
        side.low -= 1
        i -= 1
    side.key[i] = key
    side.size[i] = size
    if full:
        side_narrow(side)


cdef void side_load(
    Side *side, const double *price, const double *size, Py_ssize_t n, Py_ssize_t requested,
) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint whole = n < requested
    side_clear(side)
    for i in range(n):
        side_set(side, price[i], size[i])
    if not whole and side.high > side.low:
        side_narrow(side)


cdef inline Py_ssize_t side_copy(const Side *side, double *price, double *size, Py_ssize_t depth) noexcept nogil:
    cdef Py_ssize_t n = side.high - side.low
    cdef Py_ssize_t i
    cdef Py_ssize_t written = 0
    cdef const double *keys = side.key + side.high - 1
    cdef const double *sizes = side.size + side.high - 1
    cdef double sign = side.sign
    # usually the farthest level is within the known range, so one comparison is enough
    if n and side.key[side.low] < side.known:
        n = side.high - side_find(side, side.known)
    if side.holes == 0:
        if n > depth:
            n = depth
        for i in range(n):
            price[i] = sign * keys[-i]
            size[i] = sizes[-i]
        return n
    i = 0
    while i < n and written < depth:
        # a hole is overwritten by the next level
        price[written] = sign * keys[-i]
        size[written] = sizes[-i]
        written += sizes[-i] != 0
        i += 1
    return written


cdef class OrderBook:
    """A book of at most `capacity` levels per side; further levels are dropped at the far end and counted."""

    def __cinit__(self, Py_ssize_t capacity=16384):
        if not 1 <= capacity <= MOST_LEVELS:
            raise ValueError(f"capacity: expected 1 to {MOST_LEVELS} levels, was {capacity}")
        self.capacity = capacity
        side_open(&self.bid, capacity, 1.0)
        side_open(&self.ask, capacity, -1.0)

    def __dealloc__(self):
        free(self.bid.key)
        free(self.bid.size)
        free(self.ask.key)
        free(self.ask.size)

    cdef int reset(self) noexcept:
        side_clear(&self.bid)
        side_clear(&self.ask)
        return 0

    cdef int load_levels(
        self, const double *bid_price, const double *bid_size, Py_ssize_t n_bids,
        const double *ask_price, const double *ask_size, Py_ssize_t n_asks, Py_ssize_t requested,
    ) noexcept:
        side_load(&self.bid, bid_price, bid_size, n_bids, requested)
        side_load(&self.ask, ask_price, ask_size, n_asks, requested)
        return 0

    cdef int apply_levels(
        self, const double *bid_price, const double *bid_size, Py_ssize_t n_bids,
        const double *ask_price, const double *ask_size, Py_ssize_t n_asks,
    ) noexcept:
        cdef Py_ssize_t i
        for i in range(n_bids):
            side_set(&self.bid, bid_price[i], bid_size[i])
        for i in range(n_asks):
            side_set(&self.ask, ask_price[i], ask_size[i])
        return 0

    cdef bint crossed(self) noexcept:
        if self.bid.high == self.bid.low or self.ask.high == self.ask.low:
            return False
        return self.bid.key[self.bid.high - 1] >= -self.ask.key[self.ask.high - 1]

    cdef Py_ssize_t copy_bids(self, double *price, double *size, Py_ssize_t depth) noexcept:
        return side_copy(&self.bid, price, size, depth)

    cdef Py_ssize_t copy_asks(self, double *price, double *size, Py_ssize_t depth) noexcept:
        return side_copy(&self.ask, price, size, depth)

    cdef double known_span(self) noexcept:
        if self.bid.high == self.bid.low or self.ask.high == self.ask.low:
            # an empty side of a cut snapshot: nothing near the best prices is known
            return INFINITY if self.bid.known == -INFINITY and self.ask.known == -INFINITY else 0.0
        cdef double bid = self.bid.key[self.bid.high - 1]
        cdef double ask = -self.ask.key[self.ask.high - 1]
        cdef double mid = (bid + ask) / 2
        cdef double below = mid - self.bid.known
        cdef double above = -self.ask.known - mid
        return (below if below < above else above) / mid

    def load(self, bids, asks, Py_ssize_t requested=0):
        """Replace the book by a snapshot.

        Args:
            bids, asks: float64[2, n], row 0 prices, row 1 sizes, any order.
            requested: levels per side that were requested; a side with as many is known only down
                to its last level. 0 = the snapshot is the whole book.
        """
        cdef const double[:, ::1] b = np.ascontiguousarray(bids, dtype=np.float64)
        cdef const double[:, ::1] a = np.ascontiguousarray(asks, dtype=np.float64)
        if b.shape[0] != 2 or a.shape[0] != 2:
            raise ValueError(f"levels: expected shape (2, n), was {bids.shape} and {asks.shape}")
        cdef Py_ssize_t n = b.shape[1]
        cdef Py_ssize_t m = a.shape[1]
        if requested < 1:
            requested = (n if n > m else m) + 1
        self.load_levels(
            &b[0, 0] if n else NULL, &b[1, 0] if n else NULL, n,
            &a[0, 0] if m else NULL, &a[1, 0] if m else NULL, m, requested,
        )

    def apply(self, const double[:, ::1] bids not None, const double[:, ::1] asks not None):
        """Set levels; size 0 deletes. bids, asks: float64[2, n], row 0 prices, row 1 sizes, any order."""
        cdef Py_ssize_t n = bids.shape[1]
        cdef Py_ssize_t m = asks.shape[1]
        if bids.shape[0] != 2 or asks.shape[0] != 2:
            raise ValueError(f"levels: expected shape (2, n), was ({bids.shape[0]}, {n}) and ({asks.shape[0]}, {m})")
        self.apply_levels(
            &bids[0, 0] if n else NULL, &bids[1, 0] if n else NULL, n,
            &asks[0, 0] if m else NULL, &asks[1, 0] if m else NULL, m,
        )

    def clear(self):
        """Forget all levels."""
        self.reset()

    def top(self, Py_ssize_t depth):
        """Return the known levels (bids, asks) as float64[2, n] copies, best first, n ≤ depth."""
        n = min(depth, self.n_bids)
        m = min(depth, self.n_asks)
        bids = np.empty((2, n))
        asks = np.empty((2, m))
        cdef double[:, ::1] b = bids
        cdef double[:, ::1] a = asks
        n = self.copy_bids(&b[0, 0], &b[1, 0], n) if n else 0
        m = self.copy_asks(&a[0, 0], &a[1, 0], m) if m else 0
        return bids[:, :n], asks[:, :m]

    def levels(self):
        """Return all levels (bids, asks) as float64[2, n] copies, best first, also outside the known range."""
        cdef double bid_known = self.bid.known
        cdef double ask_known = self.ask.known
        self.bid.known = self.ask.known = -INFINITY
        try:
            return self.top(self.capacity)
        finally:
            self.bid.known = bid_known
            self.ask.known = ask_known

    @property
    def bids(self):
        """float64[2, n_bids] copy of the known bids, best first."""
        return self.top(self.capacity)[0]

    @property
    def asks(self):
        """float64[2, n_asks] copy of the known asks, best first."""
        return self.top(self.capacity)[1]

    @property
    def n_bids(self):
        """Number of levels, with those outside the known range."""
        return self.bid.high - self.bid.low - self.bid.holes

    @property
    def n_asks(self):
        return self.ask.high - self.ask.low - self.ask.holes

    @property
    def best_bid(self):
        """(price, size), None when there are no bids."""
        if self.bid.high == self.bid.low:
            return None
        return self.bid.key[self.bid.high - 1], self.bid.size[self.bid.high - 1]

    @property
    def best_ask(self):
        if self.ask.high == self.ask.low:
            return None
        return -self.ask.key[self.ask.high - 1], self.ask.size[self.ask.high - 1]

    @property
    def known_range(self):
        """(lowest known bid price, highest known ask price); (-inf, inf) = everything is known."""
        return self.bid.known, -self.ask.known

    @property
    def span(self):
        """Known distance from the mid on the nearer side, as a share of the mid."""
        return self.known_span()

    @property
    def is_crossed(self):
        return self.crossed()

    @property
    def levels_dropped(self):
        """Number of levels dropped because of the capacity since the book was made."""
        return self.bid.dropped + self.ask.dropped
