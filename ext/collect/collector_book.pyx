"""The order book collector's hot path."""

import numpy as np

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.bytes cimport PyBytes_GET_SIZE
from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.stdint cimport uint16_t
from libc.stdint cimport uint32_t
from libc.stdlib cimport free
from libc.stdlib cimport malloc
from libc.string cimport memcmp
from libc.string cimport memcpy
from libc.string cimport memset

from coinspace._ext.collector cimport Collector
from coinspace._ext.collector cimport MarketEntry
from coinspace._ext.collector cimport absurd_time
from coinspace._ext.collector cimport in_order
from coinspace._ext.message cimport FLAG_GROUPED
from coinspace._ext.message cimport FLAG_REPEAT
from coinspace._ext.message cimport HEADER_SIZE
from coinspace._ext.message cimport Header
from coinspace._ext.message cimport KIND_ORDERBOOK
from coinspace._ext.orderbook cimport OrderBook
from coinspace._ext.parser cimport ORDERBOOK
from coinspace._ext.parser cimport Parser
from coinspace._ext.sink cimport Sink
from coinspace._ext.sink cimport Topic

# so many updates in a row, over so long a time, that the book already contains: its ids have started again
OUTDATED_ROW = 5
OUTDATED_NS = 5_000_000_000
# ids are far below this; above it arithmetic would overflow
ID_LIMIT = 1 << 62

cdef int outdated_row_limit = OUTDATED_ROW
cdef int64_t outdated_ns_limit = OUTDATED_NS
cdef int64_t id_limit = ID_LIMIT


cdef inline double *append(
    double *out, const double *near, Py_ssize_t n, const double *far, Py_ssize_t more,
) noexcept nogil:
    memcpy(out, near, n * sizeof(double))
    memcpy(out + n, far, more * sizeof(double))
    return out + n + more


cdef class BookMarket(MarketEntry):
    """One market's book. `capacity` > 0 keeps a local book of as many levels per side."""

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
        self.patience_ns = outdated_ns_limit
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
        # sizes go behind the prices actually written, which are fewer than `depth` when the known range is short
        cdef Py_ssize_t n = self.book.copy_bids(self.levels, self.scratch, self.depth)
        memcpy(self.levels + n, self.scratch, n * sizeof(double))
        cdef Py_ssize_t m = self.book.copy_asks(self.levels + 2 * n, self.scratch, self.depth)
        memcpy(self.levels + 2 * n + m, self.scratch, m * sizeof(double))
        self.n_bids = n
        self.n_asks = m
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

    def forget(self):
        """Drop the book: nothing of it may be used until a new one is there."""
        self.usable = False
        self.update_id = 0
        self.n_bids = self.n_asks = 0
        self.exchange_ns = 0
        self.outdated_row = 0
        if self.book is not None:
            self.book.reset()


cdef class BookCollector(Collector):
    """Books of one exchange. Subclasses say what to do when a book cannot go on."""

    def __init__(
        self, Parser parser not None, Sink sink not None, list markets not None, *, bint updates, Parser kept=None,
    ):
        Collector.__init__(self, parser, sink, markets)
        self.updates = updates
        # a frame may be half read when a snapshot or a kept frame is
        self.kept = parser if kept is None else kept

    cdef int take(
        self, MarketEntry market, int kind, const char *frame, Py_ssize_t size, int64_t received_ns, int connection,
    ) except -1:
        if kind != ORDERBOOK:
            self.ignored += 1
            return 0
        if self.updates:
            if self.parser.snapshot:
                # a partial book beside the updates: the local book already has it
                self.ignored += 1
                return 0
            return self.take_update(<BookMarket>market, frame, size, received_ns, connection)
        return self.take_whole(<BookMarket>market, received_ns, connection)

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
        if not in_order(market, exchange_ns, self.now_ns):
            return 0
        if connection > market.primary:
            market.primary = connection
        if n and m and parser.bid_price[0] >= parser.ask_price[0]:
            market.crossed += 1
            self.on_crossed(market, received_ns)
            return 0
        if not market.usable:
            self.on_whole_book(market, received_ns)
        market.exchange_ns = exchange_ns
        market.update_id = parser.final_update_id
        if market.same_levels(parser.bid_price, parser.bid_size, n, parser.ask_price, parser.ask_size, m):
            market.repeats += 1
            market.applied += 1
            return self.send_book(market, FLAG_REPEAT, received_ns)
        market.keep_levels(parser.bid_price, parser.bid_size, n, parser.ask_price, parser.ask_size, m)
        market.changed_ns = received_ns
        market.applied += 1
        return self.send_book(market, 0, received_ns)

    cdef int take_update(
        self, BookMarket market, const char *frame, Py_ssize_t size, int64_t received_ns, int connection,
    ) except -1:
        cdef Parser parser = self.parser
        cdef int64_t first = parser.first_update_id
        cdef int64_t final = parser.final_update_id
        if first < 0 or first > final or final >= id_limit:
            self.bad_ids += 1
            return 0
        if parser.cut:
            # what it does not say would stay in the book for ever
            if not market.usable or final > market.update_id:
                self.on_truncated(market, first, final)
            return 0
        if market.buffering:
            self.on_buffered(market, PyBytes_FromStringAndSize(frame, size), first, final, received_ns, connection)
        if not market.usable:
            if not market.buffering:
                self.on_unsynced(market, PyBytes_FromStringAndSize(frame, size), first, final, received_ns, connection)
            return 0
        if final <= market.update_id:
            market.outdated += 1
            if connection >= market.primary:
                self.watch_outdated(market, final)
        elif first > market.update_id + 1:
            if connection != market.primary:
                # the newer of two connections is ahead: the older one still delivers what lies between
                market.overlap_skipped += 1
                return 0
            self.on_gap(
                market, PyBytes_FromStringAndSize(frame, size), first, final, received_ns, connection,
            )
            return 0
        else:
            self.apply_update(parser, market, received_ns)
        if connection > market.primary:
            market.primary = connection
        return 0

    cdef int watch_outdated(self, BookMarket market, int64_t final) except -1:
        if market.outdated_row == 0:
            market.outdated_ns = self.now_ns
        elif final <= market.outdated_id:
            # the same again, not a sequence of its own
            return 0
        market.outdated_id = final
        market.outdated_row += 1
        if market.outdated_row >= outdated_row_limit and self.now_ns - market.outdated_ns >= market.patience_ns:
            market.outdated_row = 0
            self.on_outdated(market)
        return 0

    cdef int apply_update(self, Parser parser, BookMarket market, int64_t received_ns) except -1:
        cdef OrderBook book = market.book
        market.outdated_row = 0
        market.patience_ns = outdated_ns_limit
        book.apply_levels(
            parser.bid_price, parser.bid_size, parser.n_bids, parser.ask_price, parser.ask_size, parser.n_asks,
        )
        market.update_id = parser.final_update_id
        market.exchange_ns = self.sound_time(parser.exchange_ns, received_ns)
        if book.crossed():
            market.crossed += 1
            self.on_crossed(market, received_ns)
            return 0
        if market.quiet:
            return 0
        market.applied += 1
        market.changed_ns = received_ns
        market.keep_book()
        if (market.n_bids == 0 and book.bid.known > -INFINITY) or (market.n_asks == 0 and book.ask.known > -INFINITY):
            # what lies beyond the known range is unknown, not empty
            self.on_range_left(market, received_ns)
            if self.watcher is not None:
                self.watcher(market, received_ns)
            return 0
        return self.send_book(market, 0, received_ns)

    cdef int send_extended(self, BookMarket market, Header *header) except -1:
        cdef BookMarket far = market.extension
        cdef double *out = market.extended
        cdef Py_ssize_t n = market.n_bids
        cdef Py_ssize_t m = market.n_asks
        cdef Py_ssize_t bids = 0
        cdef Py_ssize_t asks = 0
        # a group that reaches into the fine levels would count them twice: it is left out
        while bids < far.n_bids and n and far.levels[bids] > market.levels[n - 1] - far.grouping:
            bids += 1
        cdef const double *far_asks = far.levels + 2 * far.n_bids
        while asks < far.n_asks and m and far_asks[asks] < market.levels[2 * n + m - 1] + far.grouping:
            asks += 1
        cdef Py_ssize_t more_bids = min(far.n_bids - bids, market.depth)
        cdef Py_ssize_t more_asks = min(far.n_asks - asks, market.depth)
        out = append(out, market.levels, n, far.levels + bids, more_bids)
        out = append(out, market.levels + n, n, far.levels + far.n_bids + bids, more_bids)
        out = append(out, market.levels + 2 * n, m, far_asks + asks, more_asks)
        out = append(out, market.levels + 2 * n + m, m, far_asks + far.n_asks + asks, more_asks)
        header.flags |= FLAG_GROUPED
        header.n_bids = <uint32_t>(n + more_bids)
        header.n_asks = <uint32_t>(m + more_asks)
        return self.sink.send(
            market.topic, header, market.extended, 2 * (header.n_bids + header.n_asks) * sizeof(double),
        )

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
        header.id = market.update_id
        if market.extension is not None and market.extension.usable:
            self.send_extended(market, &header)
        else:
            self.sink.send(market.topic, &header, market.levels, 2 * (market.n_bids + market.n_asks) * sizeof(double))
        market.published += 1
        if self.watcher is not None:
            self.watcher(market, received_ns)
        return 0

    def publish_again(self, BookMarket market not None, int flags, int64_t received_ns):
        """Publish the last accepted book once more: proof that it still holds."""
        self.send_book(market, flags, received_ns)

    def publish_book(self, BookMarket market not None, int flags, int64_t received_ns):
        """Publish the local book as it stands."""
        market.keep_book()
        self.send_book(market, flags, received_ns)

    def load_snapshot(self, BookMarket market not None, bytes payload not None, Py_ssize_t requested):
        """Read a REST snapshot into the local book.

        Returns: the id of its last update, 0 when the payload is not a snapshot (the book is unchanged).
        """
        cdef Parser parser = self.kept
        parser.begin(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        if parser.next() != ORDERBOOK or not parser.snapshot or not 0 < parser.final_update_id < id_limit:
            return 0
        market.book.load_levels(
            parser.bid_price, parser.bid_size, parser.n_bids, parser.ask_price, parser.ask_size, parser.n_asks,
            requested,
        )
        market.update_id = parser.final_update_id
        return market.update_id

    def snapshot_id(self, bytes payload not None):
        """Return the id of a REST snapshot's last update, 0 when the payload is not one."""
        cdef Parser parser = self.kept
        parser.begin(PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        if parser.next() != ORDERBOOK or not parser.snapshot or not 0 < parser.final_update_id < id_limit:
            return 0
        return parser.final_update_id

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

    def on_whole_book(self, BookMarket market, int64_t received_ns):
        """Called before the first whole book after a start, a loss or a quarantine; sets `usable`."""
        raise NotImplementedError(f"{type(self).__name__}.on_whole_book")

    def on_unsynced(
        self, BookMarket market, bytes frame, int64_t first, int64_t final, int64_t received_ns, int connection,
    ):
        """Called for an update of a book that is not complete."""
        raise NotImplementedError(f"{type(self).__name__}.on_unsynced")

    def on_buffered(
        self, BookMarket market, bytes frame, int64_t first, int64_t final, int64_t received_ns, int connection,
    ):
        """Called for each update while `buffering`."""
        raise NotImplementedError(f"{type(self).__name__}.on_buffered")

    def on_gap(
        self, BookMarket market, bytes frame, int64_t first, int64_t final, int64_t received_ns, int connection,
    ):
        """Called when updates between the book and this one are missing."""
        raise NotImplementedError(f"{type(self).__name__}.on_gap")

    def on_truncated(self, BookMarket market, int64_t first, int64_t final):
        """Called for an update with more levels than there is room for: it cannot be applied."""
        raise NotImplementedError(f"{type(self).__name__}.on_truncated")

    def on_outdated(self, BookMarket market):
        """Called when nothing but updates that the book already contains has come for long."""
        raise NotImplementedError(f"{type(self).__name__}.on_outdated")

    def on_range_left(self, BookMarket market, int64_t received_ns):
        """Called when a side has no known level any more: the book is not published."""
        raise NotImplementedError(f"{type(self).__name__}.on_range_left")

    def on_crossed(self, BookMarket market, int64_t received_ns):
        """Called when the best bid is not below the best ask: the book is not published."""
        raise NotImplementedError(f"{type(self).__name__}.on_crossed")
