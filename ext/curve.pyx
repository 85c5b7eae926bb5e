"""Size cap, price-volume curve, utilised depth, value and shares over one merged ladder.

The curve is a step function of volume with constant prices on segments (a, b]. The grid mode needs no second
algorithm: a point v = k*s stands for (v - s, v], since the sum of exp(-rate*v) over its points up to k is the same
geometric series, so the cumulative sizes are rounded down to their last grid point and the integral is taken.

Ties are tolerant (relative 1e-12) so that float64 and exact arithmetic take the same side: in cumulative sizes, in the
spread limit, and in prices, where levels of two currencies meet after a division.
"""

import numpy as np

from cpython.mem cimport PyMem_Free
from cpython.mem cimport PyMem_Realloc
from cython cimport final
from libc.float cimport DBL_MAX
from libc.math cimport exp
from libc.math cimport expm1
from libc.math cimport floor
from libc.math cimport frexp
from libc.math cimport ldexp
from libc.math cimport sqrt
from libc.stdint cimport int32_t

from coinspace._ext.ladder cimport ASK
from coinspace._ext.ladder cimport BID
from coinspace._ext.ladder cimport Ladder

OK = 0
INSUFFICIENT_DEPTH = 1
EMPTY = 2

cdef double TOLERANCE = 1e-12
# sizes beyond these leave float64 when squared and summed
cdef double HUGE = 1e100
cdef double TINY = 1e-100
cdef double MOST_POINTS = 4503599627370496.0


cdef int _grow(void** memory, Py_ssize_t n, size_t item) except -1:
    cdef void* grown = PyMem_Realloc(memory[0], n * item)
    if grown == NULL:
        raise MemoryError
    memory[0] = grown
    return 0


cdef void _keep_smallest(double* heap, Py_ssize_t k, const double* values, Py_ssize_t n, double sign) noexcept nogil:
    # a heap with the largest of the k smallest sign*values on top: one pass, since k is 1 % of n
    cdef Py_ssize_t i, j, child
    cdef double x
    for i in range(n):
        x = sign * values[i]
        if i < k:
            j = i
            while j and x > heap[(j - 1) >> 1]:
                heap[j] = heap[(j - 1) >> 1]
                j = (j - 1) >> 1
            heap[j] = x
        elif x < heap[0]:
            j = 0
            while True:
                child = 2 * j + 1
                if child >= k:
                    break
                if child + 1 < k and heap[child + 1] > heap[child]:
                    child += 1
                if x >= heap[child]:
                    break
                heap[j] = heap[child]
                j = child
            heap[j] = x


@final
cdef class Curve:
    """The calculation of one index over a ladder; keeps its memory between ticks.

    Args:
        max_spread: D, the largest askPV/midPV - 1 (0.005 = 0.5 %).
        spacing: grid step in base; 0 = integral mode.
        cut: cut the utilised depth at the coverage depth.
        decay: lambda = 1 / (decay * utilised depth).
        cap_band, cap_min_per_side: sample of the size cap: levels within the band, and at least so many.
        cap_trim, cap_sigmas: share trimmed at each end; deviations above the trimmed mean that stay.
    """

    def __cinit__(
        self, double max_spread, *, double spacing=0.0, bint cut=True, double decay=0.3, double cap_band=0.05,
        Py_ssize_t cap_min_per_side=50, double cap_trim=0.01, double cap_sigmas=5.0,
    ):
        cdef int side
        self.max_spread = max_spread
        self.spacing = spacing
        self.cut = cut
        self.decay = decay
        self.cap_band = cap_band
        self.cap_min_per_side = cap_min_per_side
        self.cap_trim = cap_trim
        self.cap_sigmas = cap_sigmas
        for side in range(2):
            self.price[side] = self.raw[side] = self.size[side] = self.total[side] = self.weight[side] = NULL
            self.venue[side] = self.group[side] = NULL
            self.capacity[side] = self.n[side] = 0
        self.end = self.mid = self.share_weight = self.sample = self.low = self.high = self.share = self.last = NULL
        self.bid_level = self.ask_level = NULL
        self.segment_capacity = self.n_segments = self.n_weighted = 0
        self.sample_capacity = self.heap_capacity = self.n_venues = 0
        self.scale = 1.0

    def __dealloc__(self):
        cdef int side
        for side in range(2):
            PyMem_Free(self.price[side])
            PyMem_Free(self.raw[side])
            PyMem_Free(self.size[side])
            PyMem_Free(self.total[side])
            PyMem_Free(self.weight[side])
            PyMem_Free(self.venue[side])
            PyMem_Free(self.group[side])
        PyMem_Free(self.end)
        PyMem_Free(self.mid)
        PyMem_Free(self.share_weight)
        PyMem_Free(self.sample)
        PyMem_Free(self.low)
        PyMem_Free(self.high)
        PyMem_Free(self.share)
        PyMem_Free(self.last)
        PyMem_Free(self.bid_level)
        PyMem_Free(self.ask_level)

    cdef int reserve(self, Ladder ladder, Py_ssize_t n_venues) except -1:
        cdef int side
        cdef Py_ssize_t n, total = ladder.n[BID] + ladder.n[ASK] + 2
        for side in range(2):
            n = ladder.n[side]
            if n > self.capacity[side]:
                n *= 2
                _grow(<void**>&self.price[side], n, sizeof(double))
                _grow(<void**>&self.raw[side], n, sizeof(double))
                _grow(<void**>&self.size[side], n, sizeof(double))
                _grow(<void**>&self.total[side], n, sizeof(double))
                _grow(<void**>&self.weight[side], n, sizeof(double))
                _grow(<void**>&self.venue[side], n, sizeof(int32_t))
                _grow(<void**>&self.group[side], n, sizeof(int32_t))
                self.capacity[side] = n
        if total > self.segment_capacity:
            total *= 2
            _grow(<void**>&self.end, total, sizeof(double))
            _grow(<void**>&self.mid, total, sizeof(double))
            _grow(<void**>&self.share_weight, total, sizeof(double))
            _grow(<void**>&self.bid_level, total, sizeof(int32_t))
            _grow(<void**>&self.ask_level, total, sizeof(int32_t))
            _grow(<void**>&self.sample, total, sizeof(double))
            _grow(<void**>&self.low, total, sizeof(double))
            _grow(<void**>&self.high, total, sizeof(double))
            self.segment_capacity = total
        if n_venues > self.n_venues or self.share == NULL:
            _grow(<void**>&self.share, n_venues + 1, sizeof(double))
            _grow(<void**>&self.last, n_venues + 1, sizeof(double))
        self.n_venues = n_venues
        return 0

    cdef void take(self, int side, Ladder ladder, const unsigned char* used) noexcept nogil:
        # copy the levels of the used venues
        cdef Py_ssize_t i, n = 0
        cdef int32_t v
        cdef double* price = self.price[side]
        cdef double* raw = self.raw[side]
        cdef int32_t* venue = self.venue[side]
        for i in range(ladder.n[side]):
            v = ladder.venue[side][i]
            price[n] = ladder.price[side][i]
            raw[n] = ladder.size[side][i]
            venue[n] = v
            n += used[v]
        self.n[side] = n

    cdef void rescale(self) noexcept nogil:
        # exact, being a power of two; leaves ordinary sizes alone
        cdef double largest = 0.0
        cdef int side, exponent
        cdef Py_ssize_t i
        for side in range(2):
            for i in range(self.n[side]):
                if self.raw[side][i] > largest:
                    largest = self.raw[side][i]
        self.scale = 1.0
        if TINY < largest < HUGE:
            return
        frexp(largest, &exponent)
        self.scale = ldexp(1.0, min(exponent, 1020))
        for side in range(2):
            for i in range(self.n[side]):
                self.raw[side][i] = self.raw[side][i] / self.scale

    cdef double cap(self) noexcept nogil:
        cdef int side
        cdef Py_ssize_t i, m, n = 0, k
        cdef double limit, low = 0.0, high = 0.0, x, total = 0.0, mean, spread = 0.0
        cdef const double* price
        for side in range(2):
            price = self.price[side]
            m = min(self.n[side], self.cap_min_per_side)
            if side == BID:
                limit = 1.0 - self.cap_band - TOLERANCE
                while m < self.n[side] and price[m] / price[0] >= limit:
                    m += 1
            else:
                limit = 1.0 + self.cap_band + TOLERANCE
                while m < self.n[side] and price[m] / price[0] <= limit:
                    m += 1
            for i in range(m):
                self.sample[n] = self.raw[side][i]
                n += 1
        k = <Py_ssize_t>floor(self.cap_trim * n + 1e-9)
        if k:
            _keep_smallest(self.low, k + 1, self.sample, n, 1.0)
            _keep_smallest(self.high, k + 1, self.sample, n, -1.0)
            low, high = self.low[0], -self.high[0]
            for i in range(n):
                x = self.sample[i]
                self.sample[i] = low if x < low else (high if x > high else x)
        for i in range(n):
            total += self.sample[i]
        mean = total / n
        for i in range(n):
            x = self.sample[i] - mean
            spread += x * x
        spread = sqrt(spread / (n - 1)) if n > 1 else 0.0
        if k:
            # the trimmed sum is the winsorised one without the k replaced sizes at either end
            mean = (total - k * (low + high)) / (n - 2 * k)
        return mean + self.cap_sigmas * spread

    cdef double accumulate(self, int side, double cap) noexcept nogil:
        # capped and cumulative sizes, groups of equal prices; returns the volume up to the shallowest venue's end
        cdef Py_ssize_t i, n = self.n[side]
        cdef int32_t v, group = -1
        cdef double total = 0.0, first = -1.0, covered = 0.0, limit, p
        cdef double* price = self.price[side]
        for v in range(<int32_t>self.n_venues):
            self.last[v] = -1.0
        for i in range(n):
            self.last[self.venue[side][i]] = price[i]
            self.size[side][i] = min(self.raw[side][i], cap)
            total += self.size[side][i]
            self.total[side][i] = total
            if group < 0 or (first - price[i] if side == BID else price[i] - first) > TOLERANCE * first:
                group += 1
                first = price[i]
                self.weight[side][group] = 0.0
            self.group[side][i] = group
        limit = -1.0
        for v in range(<int32_t>self.n_venues):
            p = self.last[v]
            if p > 0 and (limit < 0 or (p > limit if side == BID else p < limit)):
                limit = p
        for i in range(n):
            if (price[i] < limit * (1.0 - TOLERANCE) if side == BID else price[i] > limit * (1.0 + TOLERANCE)):
                break
            covered = self.total[side][i]
        if self.spacing > 0:
            p = self.spacing / self.scale
            for i in range(n):
                # a grid finer than float64 can count is no grid
                if self.total[side][i] / p < MOST_POINTS:
                    self.total[side][i] = p * floor(self.total[side][i] / p / (1.0 - TOLERANCE))
        return covered

    cdef bint walk(self) noexcept nogil:
        # segments while the spread passes; returns whether a side ended before the limit
        cdef Py_ssize_t i = 0, j = 0, m = 0, n = self.n[BID], k = self.n[ASK]
        cdef double a = 0.0, b, mid, bids, asks, bound
        cdef bint grid = self.spacing > 0
        while i < n and j < k:
            bids = self.total[BID][i]
            asks = self.total[ASK][j]
            bound = a * (1.0 + TOLERANCE)
            if bids <= bound:
                i += 1
                continue
            if asks <= bound:
                j += 1
                continue
            b = min(bids, asks)
            mid = 0.5 * self.price[BID][i] + 0.5 * self.price[ASK][j]
            if self.price[ASK][j] / mid - 1.0 > self.max_spread + TOLERANCE:
                if grid and m == 0:
                    # the first point always counts on the grid
                    self.end[0] = self.spacing / self.scale
                    self.mid[0] = mid
                    self.bid_level[0] = <int32_t>i
                    self.ask_level[0] = <int32_t>j
                    m = 1
                self.n_segments = m
                return False
            self.end[m] = b
            self.mid[m] = mid
            self.bid_level[m] = <int32_t>i
            self.ask_level[m] = <int32_t>j
            m += 1
            a = b
        self.n_segments = m
        return True

    cdef double weigh(self, double depth, bint keep) noexcept nogil:
        # exponentially weighted mid up to `depth`; keep = remember the weights for the shares
        cdef double rate = 1.0 / (self.decay * depth)
        cdef double norm = -expm1(-rate * depth)
        cdef double first = self.mid[0], sum_ = 0.0, before = 1.0, after, w
        cdef Py_ssize_t m = 0
        cdef bint last = False
        while m < self.n_segments and not last:
            last = self.end[m] >= depth * (1.0 - TOLERANCE)
            after = exp(-rate * (depth if last else self.end[m]))
            w = before - after
            before = after
            sum_ += (self.mid[m] - first) * w
            if keep:
                self.share_weight[m] = w / norm
                self.weight[BID][self.group[BID][self.bid_level[m]]] += w
                self.weight[ASK][self.group[ASK][self.ask_level[m]]] += w
            m += 1
        if keep:
            self.rate = rate
            self.n_weighted = m
            self.attribute(norm)
        return first + sum_ / norm

    cdef void attribute(self, double norm) noexcept nogil:
        # each group's weight to its venues, pro rata by capped size
        cdef int side
        cdef Py_ssize_t i, start, j
        cdef int32_t v, group
        cdef double total, w
        for v in range(<int32_t>self.n_venues):
            self.share[v] = 0.0
        for side in range(2):
            i = 0
            while i < self.n[side]:
                start = i
                group = self.group[side][i]
                total = 0.0
                while i < self.n[side] and self.group[side][i] == group:
                    total += self.size[side][i]
                    i += 1
                w = self.weight[side][group]
                if w > 0:
                    for j in range(start, i):
                        self.share[self.venue[side][j]] += 0.5 * w / norm * (self.size[side][j] / total)
                elif self.bid_level[self.n_weighted - 1] < start and side == BID:
                    break
                elif self.ask_level[self.n_weighted - 1] < start and side == ASK:
                    break

    def compute(self, Ladder ladder not None, const unsigned char[::1] used not None):
        """Compute over the levels of the used venues (1 = used, per venue index of the ladder).

        Returns: OK, INSUFFICIENT_DEPTH (nothing within the spread limit) or EMPTY (a side has no level).
        """
        cdef Py_ssize_t n_venues = used.shape[0]
        cdef int side
        cdef double cap, bids, asks, covered, depth, step
        cdef bint limited = False
        self.reserve(ladder, n_venues)
        self.n_segments = self.n_weighted = 0
        self.exhausted = False
        self.size_cap = self.coverage_depth = self.full_depth = self.depth = self.rate = 0.0
        self.value = self.value_full = self.best_bid = self.best_ask = 0.0
        for side in range(2):
            if n_venues:
                self.take(side, ladder, &used[0])
            else:
                self.n[side] = 0
        if not self.n[BID] or not self.n[ASK]:
            return EMPTY
        self.rescale()
        self.best_bid = self.price[BID][0]
        self.best_ask = self.price[ASK][0]
        cap = self.cap()
        bids = self.accumulate(BID, cap)
        asks = self.accumulate(ASK, cap)
        covered = min(bids, asks)
        self.size_cap = min(cap * self.scale, DBL_MAX)
        self.coverage_depth = min(covered * self.scale, DBL_MAX)
        self.exhausted = self.walk()
        if not self.n_segments:
            return INSUFFICIENT_DEPTH
        depth = self.end[self.n_segments - 1]
        self.full_depth = min(depth * self.scale, DBL_MAX)
        if self.cut:
            if self.spacing > 0:
                step = self.spacing / self.scale
                if covered / step < MOST_POINTS:
                    covered = max(step, step * floor(covered / step / (1.0 - TOLERANCE)))
            if covered < depth * (1.0 - TOLERANCE):
                self.value_full = self.weigh(depth, False)
                depth = covered
                limited = True
        self.value = self.weigh(depth, True)
        if not limited:
            self.value_full = self.value
        self.depth = min(depth * self.scale, DBL_MAX)
        self.rate = self.rate / self.scale
        return OK

    @property
    def depth_limited(self):
        """Whether the uncut depth goes beyond the coverage depth, or a side ended before the spread limit."""
        return self.exhausted or self.full_depth > self.coverage_depth * (1.0 + TOLERANCE)

    def shares(self):
        """Return the share of each venue of the last compute, float64[n_venues]; the used ones add up to 1."""
        cdef Py_ssize_t v
        out = np.zeros(self.n_venues)
        cdef double[::1] view = out
        if self.n_weighted:
            for v in range(self.n_venues):
                view[v] = self.share[v]
        return out

    def average(self, int side, double volume):
        """Return the average price to trade `volume` into a side (0 = sell into bids, 1 = buy asks), uncapped sizes.

        Returns: None where the side holds less.
        """
        cdef Py_ssize_t i
        cdef double left = volume / self.scale, total = 0.0, taken, first
        if not self.n[side] or not volume > 0:
            return None
        first = self.price[side][0]
        for i in range(self.n[side]):
            taken = min(self.raw[side][i], left)
            total += taken * (self.price[side][i] - first)
            left -= taken
            if left <= TOLERANCE * volume / self.scale:
                return first + total / (volume / self.scale)
        return None

    def levels(self, int side):
        """Return the used levels of a side: float64[n] prices, uncapped sizes, capped sizes, int32[n] venues."""
        cdef Py_ssize_t i, n = self.n[side]
        out = np.empty((3, n))
        venues = np.empty(n, dtype=np.int32)
        cdef double[:, ::1] view = out
        cdef int[::1] v = venues
        for i in range(n):
            view[0, i] = self.price[side][i]
            view[1, i] = self.raw[side][i] * self.scale
            view[2, i] = self.size[side][i] * self.scale
            v[i] = self.venue[side][i]
        return out[0], out[1], out[2], venues

    def segments(self):
        """Return the curve: float64[7, n]: from, to (volume), bidPV, askPV, midPV, midSV, weight in the value."""
        cdef Py_ssize_t m
        cdef double before = 0.0
        out = np.zeros((7, self.n_segments))
        cdef double[:, ::1] view = out
        for m in range(self.n_segments):
            view[0, m] = before * self.scale
            view[1, m] = self.end[m] * self.scale
            view[2, m] = self.price[BID][self.bid_level[m]]
            view[3, m] = self.price[ASK][self.ask_level[m]]
            view[4, m] = self.mid[m]
            view[5, m] = view[3, m] / self.mid[m] - 1.0
            view[6, m] = self.share_weight[m] if m < self.n_weighted else 0.0
            before = self.end[m]
        return out
