"""The order book collector's hot path."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from coinspace._ext.checksum cimport checksum
from coinspace._ext.collector cimport Collector, MarketEntry, absurd_time, in_order
from coinspace._ext.groups cimport Groups
from coinspace._ext.links cimport DIFFERENT, Links, SAME
from coinspace._ext.message cimport FLAG_REPEAT, FLAG_TOUCH, HEADER_SIZE, Header, KIND_ORDERBOOK
from coinspace._ext.orderbook cimport OrderBook
from coinspace._ext.parser cimport ASK, ASK_SIZE, BID, BID_SIZE, ORDERBOOK, Parser
from coinspace._ext.sequence cimport APPLY, CUT, IGNORE, Sequence, possible
from coinspace._ext.sink cimport Sink, Topic


# best prices that no update has followed for this long are not used any more
cdef int64_t touch_limit_ns = 1_000_000_000


cdef Py_ssize_t behind(const double *prices, Py_ssize_t n, double best, bint falling) noexcept nogil:
    # the first level behind the best price
    cdef Py_ssize_t at = 0
    while at < n and (prices[at] >= best if falling else prices[at] <= best):
        at += 1
    return at


cdef inline double *corrected_side(
    double *out, const double *prices, Py_ssize_t more, double price, const double *sizes, double size,
) noexcept nogil:
    out[0] = price
    memcpy(out + 1, prices, more * sizeof(double))
    out[more + 1] = size
    memcpy(out + more + 2, sizes, more * sizeof(double))
    return out + 2 * (more + 1)


cdef class BookMarket(MarketEntry):
    """One market's book. Args: capacity: levels per side of a local book, 0 = the exchange sends whole books."""

    def __cinit__(self, int index, str symbol, str market, Topic topic, Py_ssize_t depth, Py_ssize_t capacity=0):
        if depth < 1:
            raise ValueError(f"depth: expected at least 1 level, was {depth}")
        if depth > PY_SSIZE_T_MAX // <Py_ssize_t>(8 * sizeof(double)):
            raise MemoryError(f"depth: no memory for {depth} levels")
        self.topic = topic
        self.depth = depth
        self.book = OrderBook(capacity) if capacity else None
        self.levels = <double *>malloc(4 * depth * sizeof(double))
        self.scratch = <double *>malloc(2 * depth * sizeof(double))
        self.extended = <double *>malloc(8 * depth * sizeof(double))
        self.sequence = Sequence()
        if self.extended == NULL or self.levels == NULL or self.scratch == NULL:
            raise MemoryError()

    def __init__(self, int index, str symbol, str market, Topic topic, Py_ssize_t depth, Py_ssize_t capacity=0):
        MarketEntry.__init__(self, index, symbol, market)

    def __dealloc__(self):
        free(self.levels)
        free(self.scratch)
        free(self.extended)

    cdef bint same_levels(self, const double *bp, const double *bs, Py_ssize_t n, const double *ap, const double *as_,
                          Py_ssize_t m) noexcept:
        cdef const double *kept = self.levels
        return (
            self.applied > 0 and n == self.n_bids and m == self.n_asks
            and memcmp(kept, bp, n * sizeof(double)) == 0
            and memcmp(kept + n, bs, n * sizeof(double)) == 0
            and memcmp(kept + 2 * n, ap, m * sizeof(double)) == 0
            and memcmp(kept + 2 * n + m, as_, m * sizeof(double)) == 0
        )

    cdef int keep_levels(self, const double *bp, const double *bs, Py_ssize_t n, const double *ap, const double *as_,
                         Py_ssize_t m) noexcept:
        memcpy(self.levels, bp, n * sizeof(double))
        memcpy(self.levels + n, bs, n * sizeof(double))
        memcpy(self.levels + 2 * n, ap, m * sizeof(double))
        memcpy(self.levels + 2 * n + m, as_, m * sizeof(double))
        self.n_bids = n
        self.n_asks = m
        return 0

    cdef int keep_book(self) noexcept:
        # sizes follow the prices directly: a short known range has fewer than `depth` prices
        cdef Py_ssize_t n = self.book.copy_bids(self.levels, self.scratch, self.depth)
        memcpy(self.levels + n, self.scratch, n * sizeof(double))
        cdef Py_ssize_t m = self.book.copy_asks(self.levels + 2 * n, self.scratch, self.depth)
        memcpy(self.levels + 2 * n + m, self.scratch, m * sizeof(double))
        self.n_bids = n
        self.n_asks = m
        return 0

    cdef int correct(self, Header *header) noexcept:
        # `levels` and the local book stay as the updates have made them
        cdef const double *asks = self.levels + 2 * self.n_bids
        cdef Py_ssize_t bid = behind(self.levels, self.n_bids, self.touch[0], True)
        cdef Py_ssize_t ask = behind(asks, self.n_asks, self.touch[2], False)
        cdef Py_ssize_t bids = min(self.n_bids - bid, self.depth - 1)
        cdef Py_ssize_t more = min(self.n_asks - ask, self.depth - 1)
        cdef double *out = corrected_side(
            self.extended, self.levels + bid, bids, self.touch[0], self.levels + self.n_bids + bid, self.touch[1],
        )
        corrected_side(out, asks + ask, more, self.touch[2], asks + self.n_asks + ask, self.touch[3])
        header.flags |= FLAG_TOUCH
        header.n_bids = <uint32_t>(bids + 1)
        header.n_asks = <uint32_t>(more + 1)
        header.exchange_ns = max(header.exchange_ns, self.touch_exchange_ns)
        return 0

    def top(self):
        """Return the last accepted book as published: (bids, asks), float64[2, n] copies, best first."""
        cdef Py_ssize_t n = self.n_bids
        cdef Py_ssize_t m = self.n_asks
        both = np.empty(2 * (n + m))
        cdef double[::1] view = both
        if n + m:
            memcpy(&view[0], self.levels, 2 * (n + m) * sizeof(double))
        return both[:2 * n].reshape(2, n), both[2 * n:].reshape(2, m)

    @property
    def usable(self):
        """Whether the book is complete."""
        return self.phase >= USED

    @property
    def update_id(self):
        """The final id of the last applied update, 0 = there is none."""
        return self.sequence.last

    @property
    def outdated(self):
        """Number of updates that the book already contained."""
        return self.sequence.contained

    @property
    def overlap_skipped(self):
        """Number of updates of the newer of two connections that were ahead of the book."""
        return self.sequence.ahead

    def forget(self):
        """Drop the book; it is not usable until a new one comes."""
        self.phase = EMPTY
        self.sequence.lose()
        self.n_bids = self.n_asks = 0
        self.exchange_ns = 0
        self.touch_id = 0
        if self.book is not None:
            self.book.reset()


cdef class BookCollector(Collector):
    """Books of one exchange. Subclasses decide what to do when a book is lost."""

    def __init__(
        self, Parser parser not None, Sink sink not None, list markets not None, *, bint updates, Parser kept=None,
        bint in_stream=False,
    ):
        Collector.__init__(self, parser, sink, markets)
        self.updates = updates
        self.in_stream = in_stream
        # a second parser, because a frame may be half read when a snapshot or a kept frame is read
        self.kept = parser if kept is None else kept

    cdef int take(
        self, MarketEntry market, int kind, const char *frame, Py_ssize_t size, int64_t received_ns, int connection,
    ) except -1:
        if kind != ORDERBOOK:
            self.ignored += 1
            return 0
        if self.in_stream:
            if self.parser.snapshot:
                return self.take_snapshot(<BookMarket>market, received_ns, connection)
            return self.take_next(<BookMarket>market, received_ns, connection)
        if self.updates:
            if self.parser.snapshot:
                # a partial book in a stream of updates: the local book already has its levels
                self.ignored += 1
                return 0
            return self.take_update(<BookMarket>market, frame, size, received_ns, connection)
        return self.take_whole(<BookMarket>market, received_ns, connection)

    cdef uint64_t content(self) noexcept:
        cdef Parser parser = self.parser
        cdef uint64_t sums[4]
        sums[0] = checksum(parser.bid_price, parser.n_bids * sizeof(double))
        sums[1] = checksum(parser.bid_size, parser.n_bids * sizeof(double))
        sums[2] = checksum(parser.ask_price, parser.n_asks * sizeof(double))
        sums[3] = checksum(parser.ask_size, parser.n_asks * sizeof(double))
        return checksum(sums, sizeof(sums))

    cdef int64_t sound_time(self, int64_t exchange_ns, int64_t received_ns) noexcept:
        if exchange_ns == 0 or not absurd_time(exchange_ns, received_ns):
            return exchange_ns
        self.bad_times += 1
        return 0

    cdef int take_whole(self, BookMarket market, int64_t received_ns, int connection) except -1:
        cdef Parser parser = self.parser
        cdef Py_ssize_t n = min(parser.n_bids, market.depth)
        cdef Py_ssize_t m = min(parser.n_asks, market.depth)
        cdef int64_t exchange_ns = self.sound_time(parser.exchange_ns, received_ns)
        cdef Links links = market.links if market.n_links > 1 else None
        cdef uint64_t content = 0
        if links is not None:
            content = self.content()
            # another book of the same time is legal: a market may change twice in a millisecond
            if exchange_ns and links.compare(0, exchange_ns, content, connection) == SAME:
                if connection > market.primary:
                    market.primary = connection
                return 0
        if not in_order(market, exchange_ns, self.now_ns):
            return 0
        if links is not None:
            links.take(0, exchange_ns, content, connection)
        if connection > market.primary:
            market.primary = connection
        if parser.final_update_id and parser.final_update_id <= market.sequence.last:
            if parser.final_update_id == market.sequence.last:
                # a second subscription, or the newer of two connections, repeats the book
                market.repeats += 1
                return 0
            if exchange_ns == market.exchange_ns:
                market.backwards += 1
                return 0
        if n and m and parser.bid_price[0] >= parser.ask_price[0]:
            market.crossed += 1
            self.on_condition(market, CROSSED, received_ns)
            return 0
        if market.phase < USED:
            market.phase = USED
            self.on_condition(market, WHOLE, received_ns)
        market.exchange_ns = exchange_ns
        market.sequence.last = parser.final_update_id
        if market.same_levels(parser.bid_price, parser.bid_size, n, parser.ask_price, parser.ask_size, m):
            market.repeats += 1
            market.applied += 1
            return self.send_book(market, FLAG_REPEAT, received_ns)
        market.keep_levels(parser.bid_price, parser.bid_size, n, parser.ask_price, parser.ask_size, m)
        market.applied += 1
        return self.send_book(market, 0, received_ns)

    cdef int take_snapshot(self, BookMarket market, int64_t received_ns, int connection) except -1:
        # the updates of this connection follow it; those of an older connection are not applied any more
        cdef Parser parser = self.parser
        if connection < market.primary:
            return 0
        market.primary = connection
        market.book.load_levels(
            parser.bid_price, parser.bid_size, parser.n_bids, parser.ask_price, parser.ask_size, parser.n_asks,
            parser.capacity,
        )
        market.exchange_ns = self.sound_time(parser.exchange_ns, received_ns)
        if market.phase < USED or market.phase == LEFT:
            market.phase = USED
        self.on_condition(market, WHOLE, received_ns)
        return self.publish_next(market, received_ns)

    cdef int take_next(self, BookMarket market, int64_t received_ns, int connection) except -1:
        cdef Parser parser = self.parser
        if market.phase < USED:
            self.early += 1
            return 0
        if connection != market.primary:
            # only the updates that follow the snapshot fit the book
            return 0
        market.book.apply_levels(
            parser.bid_price, parser.bid_size, parser.n_bids, parser.ask_price, parser.ask_size, parser.n_asks,
        )
        if parser.exchange_ns:
            market.exchange_ns = self.sound_time(parser.exchange_ns, received_ns)
        return self.publish_next(market, received_ns)

    cdef int publish_next(self, BookMarket market, int64_t received_ns) except -1:
        cdef bint flawed = self.parser.flawed or (self.parser.cut and not self.parser.snapshot)
        self.publish_applied(market, received_ns)
        if flawed:
            self.on_condition(market, FLAWED, received_ns)
        return 0

    cdef int take_update(
        self, BookMarket market, const char *frame, Py_ssize_t size, int64_t received_ns, int connection,
    ) except -1:
        cdef Parser parser = self.parser
        cdef Sequence sequence = market.sequence
        cdef int64_t first = parser.first_update_id
        cdef int64_t final = parser.final_update_id
        cdef Links links = market.links if market.n_links > 1 else None
        cdef uint64_t content = 0
        cdef int verdict, lead
        if not possible(first, final):
            self.bad_ids += 1
            return 0
        if parser.cut:
            # the book would keep the levels that the cut update does not change for ever
            if market.phase < USED or final > sequence.last:
                self.on_update(market, CUT, b"", first, final, received_ns, connection)
            return 0
        if links is None or sequence.last == 0:
            lead = (connection > market.primary) - (connection < market.primary)
        else:
            content = self.content()
            if final <= sequence.last:
                if links.compare(first, final, content, connection) == DIFFERENT:
                    self.on_condition(market, DISAGREED, received_ns)
                    return 0
                # ids that start again show on the link that leads; the others are late
                lead = 0 if connection == links.leader else -1
            else:
                lead = 1 if first > sequence.last + 1 and links.waits(connection, self.now_ns) else 0
        verdict = sequence.judge(first, final, lead, self.now_ns)
        if (verdict != APPLY and verdict != IGNORE) or market.phase >= REFRESHING:
            self.on_update(
                market, verdict, PyBytes_FromStringAndSize(frame, size), first, final, received_ns, connection,
            )
            if verdict != APPLY and verdict != IGNORE:
                return 0
        if verdict == APPLY:
            self.apply_update(parser, market, received_ns)
            if links is not None:
                links.take(first, final, content, connection)
        elif final > sequence.last:
            # the older of two connections still delivers the updates in between
            return 0
        if connection > market.primary:
            market.primary = connection
        return 0

    cdef int apply_update(self, Parser parser, BookMarket market, int64_t received_ns) except -1:
        cdef OrderBook book = market.book
        book.apply_levels(
            parser.bid_price, parser.bid_size, parser.n_bids, parser.ask_price, parser.ask_size, parser.n_asks,
        )
        market.sequence.reach(parser.final_update_id)
        market.exchange_ns = self.sound_time(parser.exchange_ns, received_ns)
        return self.publish_applied(market, received_ns)

    cdef int publish_applied(self, BookMarket market, int64_t received_ns) except -1:
        # publish the local book after a change, unless it cannot be right
        cdef OrderBook book = market.book
        if book.crossed():
            market.crossed += 1
            self.on_condition(market, CROSSED, received_ns)
            return 0
        if market.quiet:
            return 0
        market.applied += 1
        market.keep_book()
        if (market.n_bids == 0 and book.bid.known > -INFINITY) or (market.n_asks == 0 and book.ask.known > -INFINITY):
            # levels beyond the known range are unknown, not absent
            self.on_condition(market, RANGE_LEFT, received_ns)
            if self.watcher is not None:
                self.watcher(market, received_ns)
            return 0
        return self.send_book(market, 0, received_ns)

    cdef bint has_touch(self, BookMarket market) noexcept:
        return (
            market.corrects and market.touch_id > market.sequence.last > 0
            and self.now_ns - market.touch_ns < touch_limit_ns
        )

    cdef int take_top(self, MarketEntry entry, int64_t received_ns) except -1:
        cdef BookMarket market = <BookMarket>entry
        cdef double *top = self.parser.ticker
        cdef int64_t id = self.parser.final_update_id
        if not market.corrects:
            return 0
        if (
            not possible(id, id) or not 0 < top[BID] < top[ASK] < INFINITY
            or not 0 < top[BID_SIZE] < INFINITY or not 0 < top[ASK_SIZE] < INFINITY
        ):
            self.bad_tops += 1
            return 0
        if id <= market.sequence.last or (
            id <= market.touch_id and self.now_ns - market.touch_ns < touch_limit_ns
        ):
            return 0
        market.touch_id = id
        market.touch_ns = self.now_ns
        market.touch_exchange_ns = self.sound_time(self.parser.exchange_ns, received_ns)
        market.touch[0] = top[BID]
        market.touch[1] = top[BID_SIZE]
        market.touch[2] = top[ASK]
        market.touch[3] = top[ASK_SIZE]
        # a change of size alone waits for the next update
        if (
            (market.phase == USED or market.phase == REFRESHING) and market.applied
            and (market.shown[0] != top[BID] or market.shown[1] != top[ASK])
        ):
            self.send_book(market, 0, received_ns)
        return 0

    cdef int take_group(self, MarketEntry entry, int64_t received_ns) except -1:
        if self.updates or self.in_stream:
            self.ignored += 1
            return 0
        if (<BookMarket>entry).groups is None:
            self.groups_of(<BookMarket>entry)
        (<BookMarket>entry).groups.take(self.parser, received_ns, self.now_ns)
        return 0

    def groups_of(self, BookMarket market not None):
        """Return the price groups that extend a market's book, empty ones at first."""
        if market.groups is None:
            market.groups = Groups(market.index, market.symbol.decode(), market.market, market.depth)
        return market.groups

    cdef int send_book(self, BookMarket market, int flags, int64_t received_ns) except -1:
        cdef Header header
        if self.silent:
            return 0
        memset(&header, 0, HEADER_SIZE)
        header.kind = KIND_ORDERBOOK
        header.flags = <uint16_t>flags
        header.n_bids = <uint32_t>market.n_bids
        header.n_asks = <uint32_t>market.n_asks
        header.exchange_ns = market.exchange_ns
        header.received_ns = received_ns
        header.id = market.sequence.last
        market.shown[0] = market.levels[0] if market.n_bids else 0
        market.shown[1] = market.levels[2 * market.n_bids] if market.n_asks else 0
        if self.has_touch(market):
            market.correct(&header)
            market.shown[0] = market.touch[0]
            market.shown[1] = market.touch[2]
            market.corrected += 1
            self.sink.send(
                market.topic, &header, market.extended, 2 * (header.n_bids + header.n_asks) * sizeof(double),
            )
        elif market.groups is not None and market.groups.extend(
            market.extended, market.levels, &header, market.sequence.last,
        ):
            self.sink.send(
                market.topic, &header, market.extended, 2 * (header.n_bids + header.n_asks) * sizeof(double),
            )
        else:
            self.sink.send(market.topic, &header, market.levels, 2 * (market.n_bids + market.n_asks) * sizeof(double))
        market.published += 1
        # watchers take the book as the updates have made it
        if self.watcher is not None:
            self.watcher(market, received_ns)
        return 0

    def publish_again(self, BookMarket market not None, int flags, int64_t received_ns):
        """Publish the last accepted book again, as proof that it is still right."""
        self.send_book(market, flags, received_ns)

    def publish_book(self, BookMarket market not None, int flags, int64_t received_ns):
        """Publish the local book in its present state."""
        market.keep_book()
        self.send_book(market, flags, received_ns)

    def load_snapshot(self, BookMarket market not None, bytes payload not None, Py_ssize_t requested):
        """Load a REST snapshot, which the market's sequence has accepted, into the local book.

        Args: requested: levels per side that were requested.
        Returns: the id of its last update, 0 when the payload is not a snapshot (the book is unchanged).
        """
        cdef Parser parser = self.kept
        cdef int64_t last = self.read_snapshot(payload)
        if last:
            market.book.load_levels(
                parser.bid_price, parser.bid_size, parser.n_bids, parser.ask_price, parser.ask_size, parser.n_asks,
                requested,
            )
            market.phase = USED
        return last

    def snapshot_id(self, bytes payload not None):
        """Return the id of a REST snapshot's last update, 0 when the payload is not one."""
        return self.read_snapshot(payload)

    cdef int64_t read_snapshot(self, bytes payload) except -1:
        cdef Parser parser = self.kept
        parser.begin(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        if parser.next() != ORDERBOOK or not parser.snapshot:
            return 0
        return parser.final_update_id if possible(parser.final_update_id, parser.final_update_id) else 0

    def apply_buffered(self, BookMarket market not None, bytes frame not None, int64_t received_ns, bint quiet):
        """Apply the update in a kept frame; a quiet one is not published."""
        cdef Parser parser = self.kept
        cdef int kind
        parser.begin(PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))
        while True:
            kind = parser.next()
            if kind == ORDERBOOK and self.find(parser.symbol, parser.symbol_size) == <void *>market:
                market.quiet = quiet
                try:
                    self.apply_update(parser, market, received_ns)
                finally:
                    market.quiet = False
                return
            if kind != ORDERBOOK:
                return

    def on_update(
        self, BookMarket market, int verdict, bytes frame, int64_t first, int64_t final, int64_t received_ns,
        int connection,
    ):
        """Called for an update that can neither be applied nor ignored, and for each update that is kept beside a book.

        Args: verdict: see `Sequence`. frame: empty for CUT.
        """
        raise NotImplementedError(f"{type(self).__name__}.on_update")

    def on_condition(self, BookMarket market, int condition, int64_t received_ns):
        """Called when a book becomes WHOLE, CROSSED, RANGE_LEFT or DISAGREED; the last three are not published."""
        raise NotImplementedError(f"{type(self).__name__}.on_condition")
