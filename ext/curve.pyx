"""Size cap, price-volume curve, utilised depth, value and shares over one merged ladder.

The curve is a step function of volume with constant prices on segments (a, b]. The grid mode needs no second
algorithm: a point v = k*s stands for (v - s, v], since the sum of exp(-rate*v) over its points up to k is the same
geometric series, so the cumulative sizes are rounded down to their last grid point and the integral is taken.

Ties are tolerant (relative 1e-12) so that float64 and exact arithmetic take the same side: in cumulative sizes, in the
spread limit, and in prices, where levels of two currencies meet after a division.
"""

from decimal import Decimal

import numpy as np

from cpython.mem cimport PyMem_Free
from cpython.mem cimport PyMem_Realloc
from cython cimport final
from libc.float cimport DBL_MAX
from libc.math cimport expm1
from libc.math cimport fabs
from libc.math cimport floor
from libc.math cimport frexp
from libc.math cimport ldexp
from libc.math cimport sqrt
from libc.stdint cimport int32_t
from libc.stdint cimport int64_t
from libc.string cimport memcpy

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


# 2^(j/64) for j = 0 .. 63
cdef double[64] POWERS
cdef double STEPS = 92.33248261689366          # 64 / ln 2
# ln 2 / 64 in two parts: multiples of the first by whole numbers up to 2^20 are exact
cdef double STEP_HIGH = 0.010830424667801708
cdef double STEP_LOW = 2.8447437476627285e-11
cdef double ROUND = 6755399441055744.0         # adding and subtracting it rounds to a whole number


cdef inline double decay_of(double x) noexcept nogil:
    # exp(x) for x <= 0 within 1 ulp: a table of 64 steps and five terms. Twice as fast as libm here, and the same
    # bits on every machine, which libm does not promise.
    cdef double whole = x * STEPS + ROUND - ROUND
    cdef int64_t k = <int64_t>whole, bits
    cdef double r = (x - whole * STEP_HIGH) - whole * STEP_LOW
    cdef double scale
    if x < -700.0:
        return 0.0
    bits = ((k >> 6) + 1023) << 52
    memcpy(&scale, &bits, sizeof(double))
    r = r + r * r * (0.5 + r * (1.0 / 6 + r * (1.0 / 24 + r * (1.0 / 120))))
    scale = scale * POWERS[k & 63]
    return scale + scale * r


def _make_powers():
    # rounded correctly whatever the platform's pow
    for j in range(64):
        POWERS[j] = float((Decimal(2).ln() * j / 64).exp())


_make_powers()


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
        cdef Py_ssize_t i, m, n = 0, k, end, middle
        cdef double limit, low = 0.0, high = 0.0, x, total = 0.0, mean, spread = 0.0
        cdef const double* price
        for side in range(2):
            price = self.price[side]
            # sorted by price: bisect for the first level beyond the band
            m = min(self.n[side], self.cap_min_per_side)
            end = self.n[side]
            if side == BID:
                limit = price[0] * (1.0 - self.cap_band - TOLERANCE)
            else:
                limit = price[0] * (1.0 + self.cap_band + TOLERANCE)
            while m < end:
                middle = (m + end) >> 1
                if (price[middle] >= limit if side == BID else price[middle] <= limit):
                    m = middle + 1
                else:
                    end = middle
            memcpy(self.sample + n, self.raw[side], m * sizeof(double))
            n += m
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
        cdef const double* price = self.price[side]
        cdef const double* raw = self.raw[side]
        cdef const int32_t* venue = self.venue[side]
        cdef int32_t* groups = self.group[side]
        cdef double* size = self.size[side]
        cdef double* totals = self.total[side]
        cdef double* weight = self.weight[side]
        cdef double* last = self.last
        cdef double s
        cdef bint apart
        for v in range(<int32_t>self.n_venues):
            last[v] = -1.0
        for i in range(n):
            p = price[i]
            last[venue[i]] = p
            s = min(raw[i], cap)
            size[i] = s
            total += s
            totals[i] = total
            apart = fabs(p - first) > TOLERANCE * p
            group += apart
            first = p if apart else first
            weight[group] = 0.0
            groups[i] = group
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
        cdef const double* bid_total = self.total[BID]
        cdef const double* ask_total = self.total[ASK]
        cdef const double* bid = self.price[BID]
        cdef const double* ask = self.price[ASK]
        cdef double* end = self.end
        cdef double* mids = self.mid
        cdef int32_t* bid_level = self.bid_level
        cdef int32_t* ask_level = self.ask_level
        cdef double bound = 0.0, b, mid, bids, asks
        cdef double limit = 1.0 + self.max_spread + TOLERANCE, above = 1.0 + TOLERANCE
        cdef bint wide
        while i < n and j < k:
            bids = bid_total[i]
            asks = ask_total[j]
            b = min(bids, asks)
            mid = 0.5 * bid[i] + 0.5 * ask[j]
            # a segment without width (a level between two points of the grid) is written over by the next
            wide = b > bound
            if wide and ask[j] > mid * limit:
                if self.spacing > 0 and m == 0:
                    # the first point always counts on the grid
                    end[0] = self.spacing / self.scale
                    mids[0] = mid
                    bid_level[0] = <int32_t>i
                    ask_level[0] = <int32_t>j
                    m = 1
                self.n_segments = m
                return False
            end[m] = b
            mids[m] = mid
            bid_level[m] = <int32_t>i
            ask_level[m] = <int32_t>j
            m += wide
            # no branch: which side ends first cannot be predicted
            bound = max(b * above, bound)
            i += bids <= bound
            j += asks <= bound
        self.n_segments = m
        return True

    cdef double weigh(self, double depth, bint keep) noexcept nogil:
        # exponentially weighted mid up to `depth`; keep = remember the weights for the shares
        cdef double rate = 1.0 / (self.decay * depth)
        cdef double norm = -expm1(-rate * depth)
        cdef double first = self.mid[0], sum_ = 0.0, before = 1.0, after, w
        cdef double bound = depth * (1.0 - TOLERANCE)
        cdef const double* end = self.end
        cdef const double* mids = self.mid
        cdef double* decayed = self.share_weight
        cdef double* bid_weight = self.weight[BID]
        cdef double* ask_weight = self.weight[ASK]
        cdef const int32_t* bid_group = self.group[BID]
        cdef const int32_t* ask_group = self.group[ASK]
        cdef Py_ssize_t m, low = 0, high = self.n_segments - 1, middle
        # the segment in which the depth lies
        while low < high:
            middle = (low + high) >> 1
            if end[middle] >= bound:
                high = middle
            else:
                low = middle + 1
        for m in range(low):
            decayed[m] = decay_of(-rate * end[m])
        decayed[low] = decay_of(-rate * depth)
        for m in range(low + 1):
            after = decayed[m]
            w = before - after
            before = after
            sum_ += (mids[m] - first) * w
            decayed[m] = w / norm
            if keep:
                bid_weight[bid_group[self.bid_level[m]]] += w
                ask_weight[ask_group[self.ask_level[m]]] += w
        if keep:
            self.rate = rate
            self.n_weighted = low + 1
            self.attribute(norm)
        return first + sum_ / norm

    cdef void attribute(self, double norm) noexcept nogil:
        # each group's weight to its venues, pro rata by capped size
        cdef int side
        cdef Py_ssize_t i, start, j, last
        cdef int32_t v, group
        cdef double total, w, part = 0.5 / norm
        cdef double* share = self.share
        cdef const double* size
        cdef const int32_t* groups
        cdef const int32_t* venue
        for v in range(<int32_t>self.n_venues):
            share[v] = 0.0
        for side in range(2):
            size = self.size[side]
            groups = self.group[side]
            venue = self.venue[side]
            last = self.bid_level[self.n_weighted - 1] if side == BID else self.ask_level[self.n_weighted - 1]
            i = 0
            while i <= last:
                start = i
                group = groups[i]
                w = self.weight[side][group] * part
                i += 1
                if i == self.n[side] or groups[i] != group:
                    share[venue[start]] += w
                    continue
                total = size[start]
                while i < self.n[side] and groups[i] == group:
                    total += size[i]
                    i += 1
                for j in range(start, i):
                    share[venue[j]] += w * (size[j] / total)

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

    @staticmethod
    def decay_of_many(const double[::1] values not None):
        """Return exp of values that are not above zero, as the curve takes it; for tests."""
        cdef Py_ssize_t i
        out = np.empty(values.shape[0])
        cdef double[::1] view = out
        for i in range(values.shape[0]):
            view[i] = decay_of(values[i])
        return out

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
