"""The ticker collector's hot path."""

from cpython.pyport cimport PY_SSIZE_T_MAX
from libc.math cimport NAN
from libc.stdint cimport int64_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from coinspace._ext.collector cimport Collector, MarketEntry, TIME_GOOD, TIME_PAST, in_order
from coinspace._ext.message cimport (
    FLAG_REST, FLAG_SELL, FLAG_SNAPSHOT, HEADER_SIZE, Header, KIND_TICKER, KIND_TRADE, TICKER_FIELDS,
)
from coinspace._ext.parser cimport CHANGE, LAST, Parser, QUOTE_VOLUME, TICKER, TRADE, VOLUME
from coinspace._ext.sink cimport Sink, Topic

# limit of prices and sizes: no market reaches it
LARGEST = 1e18
# limit of ids: real ids are far below it, and above it arithmetic would overflow
ID_LIMIT = 1 << 62
# ids that count up by one do not jump further than this, even over a long outage
ID_DISTANCE = 100_000_000
# after this many ids in a row that follow each other outside the sequence (far above or below it), the sequence has
# started again there
FAR_ROW = 3
LOW_ROW = 50
# trades back from the newest one that a duplicate is compared with
cdef enum:
    COMPARED = 128
REFUSALS = ("", "price", "size", "id", "past", "future")

cdef double largest = LARGEST
cdef int64_t id_limit = ID_LIMIT
cdef int64_t id_distance = ID_DISTANCE
cdef int far_row = FAR_ROW
cdef int low_row = LOW_ROW
# a trade that is older than the newest one by more than this is late, or the time of the newest one was wrong
cdef int64_t late_ns = 60_000_000_000


cdef inline bint table_has(const int64_t *table, size_t mask, int64_t key) noexcept nogil:
    cdef size_t slot = <size_t>((<uint64_t>key * <uint64_t>0x9E3779B97F4A7C15ULL) >> 32) & mask
    while table[slot] != 0:
        if table[slot] == key:
            return True
        slot = (slot + 1) & mask
    return False


cdef inline void table_add(int64_t *table, size_t mask, int64_t key) noexcept nogil:
    # the key is not in the table, which has free slots; 0 is no key
    cdef size_t slot = <size_t>((<uint64_t>key * <uint64_t>0x9E3779B97F4A7C15ULL) >> 32) & mask
    if not key:
        return
    while table[slot] != 0:
        slot = (slot + 1) & mask
    table[slot] = key


cdef class RecentIds:
    def __cinit__(self, Py_ssize_t window=2048):
        cdef size_t room = 16
        if window < 1:
            raise ValueError(f"window: expected at least 1 id, was {window}")
        # two tables of at most 4 * window
        if window > PY_SSIZE_T_MAX // <Py_ssize_t>(8 * sizeof(int64_t)):
            raise MemoryError(f"window: no memory for {window} ids")
        self.window = window
        self.mask = room - 1
        self.newer = <int64_t *>calloc(room, sizeof(int64_t))
        self.older = <int64_t *>calloc(room, sizeof(int64_t))
        if self.newer == NULL or self.older == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.newer)
        free(self.older)

    cdef bint has(self, int64_t id) noexcept:
        # the table has id + 1: 0 marks a free slot and is also a valid id
        return id >= 0 and (table_has(self.newer, self.mask, id + 1) or table_has(self.older, self.mask, id + 1))

    cdef bint grow(self) noexcept:
        # returns whether there was memory
        cdef size_t room = 2 * (self.mask + 1)
        cdef int64_t *newer = <int64_t *>calloc(room, sizeof(int64_t))
        cdef int64_t *older = <int64_t *>calloc(room, sizeof(int64_t))
        cdef size_t slot
        if newer == NULL or older == NULL:
            free(newer)
            free(older)
            return False
        for slot in range(self.mask + 1):
            table_add(newer, room - 1, self.newer[slot])
            table_add(older, room - 1, self.older[slot])
        free(self.newer)
        free(self.older)
        self.newer = newer
        self.older = older
        self.mask = room - 1
        return True

    cdef bint put(self, int64_t id) noexcept:
        cdef int64_t *swap
        cdef bint full
        if id < 0 or self.has(id):
            return False
        full = self.count >= self.window
        if not full and 2 * <size_t>(self.count + 1) > self.mask + 1:
            full = not self.grow()
        if full:
            swap = self.older
            self.older = self.newer
            self.newer = swap
            memset(self.newer, 0, (self.mask + 1) * sizeof(int64_t))
            self.count = 0
        table_add(self.newer, self.mask, id + 1)
        self.count += 1
        return True

    def __contains__(self, int64_t id):
        return self.has(id)

    def between(self, int64_t first, int64_t last):
        """Return the known ids from first to last, ascending."""
        cdef size_t slot
        found = []
        for slot in range(self.mask + 1):
            if self.newer[slot] and first <= self.newer[slot] - 1 <= last:
                found.append(self.newer[slot] - 1)
            if self.older[slot] and first <= self.older[slot] - 1 <= last:
                found.append(self.older[slot] - 1)
        found.sort()
        return found

    def add(self, int64_t id):
        """Remember an id; return whether it is new."""
        return self.put(id)


cdef class TickerMarket(MarketEntry):
    """One market's ticker and trades."""

    def __init__(self, int index, str symbol, str market, Topic ticker_topic, Topic trade_topic):
        MarketEntry.__init__(self, index, symbol, market)
        self.ticker_topic = ticker_topic
        self.trade_topic = trade_topic
        self.ids = RecentIds()
        self.trade_id = -1
        self.awaiting = True
        self.day_volume = NAN

    cdef bint strays(self, int64_t id) noexcept:
        # whether the id lies outside the sequence; after a row of such ids the sequence continues with them
        cdef bint far = id - self.trade_id > id_distance
        if self.trade_id < 0 or (id > self.trade_id and not far):
            self.stray_row = 0
            return False
        if self.stray_row and not 0 < id - self.stray_id <= id_distance:
            self.stray_row = 0
        self.stray_id = id
        self.stray_row += 1
        if self.stray_row < (far_row if far else low_row):
            return True
        self.stray_row = 0
        self.trade_id = -1
        return False

    cdef bint differs(self, double price, double size, bint sell, int64_t id) noexcept:
        # a link that is behind by more trades is not compared
        cdef int64_t at = self.n_kept
        cdef int64_t end = max(0, self.n_kept - COMPARED)
        cdef RecentTrade *one
        while at > end:
            at -= 1
            one = &self.kept[at % RECENT]
            if one.id == id:
                return one.price != price or one.size != size or one.sell != sell
        return False

    cdef int keep(self, int64_t exchange_ns, double price, double size, bint sell, bint streamed, int64_t id) noexcept:
        self.kept[self.n_kept % RECENT] = RecentTrade(exchange_ns, price, size, sell, id)
        self.n_kept += 1
        if exchange_ns >= self.trade_ns:
            self.trade_ns = exchange_ns
            self.older_row = 0
        elif streamed and self.trade_ns - exchange_ns > late_ns:
            # one trade is late; two in a row show that the time of the newest one was wrong
            self.older_row += 1
            if self.older_row > 1:
                self.trade_ns = exchange_ns
                self.older_row = 0
        return 0

    def recent(self):
        """Return at most the last 512 trades in order of arrival: (exchange_ns, price, size, sell)."""
        cdef int64_t i
        return [
            (self.kept[i % RECENT].exchange_ns, self.kept[i % RECENT].price, self.kept[i % RECENT].size,
             bool(self.kept[i % RECENT].sell))
            for i in range(max(0, self.n_kept - RECENT), self.n_kept)
        ]

    def remember(self, int64_t exchange_ns, double price, double size, int flags, int64_t id):
        """Take a trade that an earlier process published, so that it is not published again."""
        if self.ids.put(id):
            self.keep(exchange_ns, price, size, flags & FLAG_SELL != 0, False, id)
            # REST ids do not move the stream's position, as on the live path
            if not flags & FLAG_REST and id > self.trade_id:
                self.trade_id = id


cdef class TickerCollector(Collector):
    """Tickers and trades of one exchange."""

    def __init__(self, Parser parser not None, Sink sink not None, list markets not None, *, bint contiguous):
        Collector.__init__(self, parser, sink, markets)
        self.contiguous = contiguous

    cdef int take(
        self, MarketEntry market, int kind, const char *frame, Py_ssize_t size, int64_t received_ns, int connection,
    ) except -1:
        if connection > market.primary:
            market.primary = connection
        if kind == TRADE:
            return self.take_trade(<TickerMarket>market, received_ns, connection)
        if kind == TICKER:
            return self.take_ticker(<TickerMarket>market, received_ns, connection)
        self.ignored += 1
        return 0

    def refusals(self):
        """Return the numbers of refused trades by reason."""
        cdef int i
        return {REFUSALS[i]: self.refused[i] for i in range(1, N_REFUSALS)}

    def refuse(self, str reason not None):
        """Count a trade that the caller has refused."""
        self.refused[REFUSALS.index(reason)] += 1

    cdef int judge_trade(self, double price, double size, int64_t id) noexcept:
        # a comparison with NaN is false
        if not 0 < price < largest:
            return BAD_PRICE
        if not 0 < size < largest:
            return BAD_SIZE
        return GOOD_TRADE if 0 <= id < id_limit else BAD_ID

    cdef bint sound_ticker(self, int64_t received_ns) noexcept:
        cdef Parser parser = self.parser
        cdef int i
        if not 0 < parser.ticker[LAST] < largest:
            return False
        if parser.exchange_ns and self.judge_time(parser.exchange_ns, received_ns) != TIME_GOOD:
            return False
        for i in range(TICKER_FIELDS):
            # a value that cannot be a price is absent: a market has no open price on its first day
            if i != CHANGE and i != VOLUME and i != QUOTE_VOLUME and not 0 < parser.ticker[i] < largest:
                parser.ticker[i] = NAN
        return True

    cdef int take_ticker(self, TickerMarket market, int64_t received_ns, int connection) except -1:
        cdef Parser parser = self.parser
        cdef Header header
        if not self.sound_ticker(received_ns):
            self.tickers_refused += 1
            return 0
        if not in_order(market, parser.exchange_ns, self.now_ns):
            return 0
        market.day_volume = parser.day_volume
        market.suspended = parser.suspended
        market.delisting = parser.delisting
        if (
            market.tickers and parser.exchange_ns == market.exchange_ns
            and memcmp(market.ticker, parser.ticker, sizeof(market.ticker)) == 0
        ):
            # the same ticker from the other of two connections
            market.ticker_repeats += 1
            return 0
        memcpy(market.ticker, parser.ticker, sizeof(market.ticker))
        market.exchange_ns = parser.exchange_ns
        market.tickers += 1
        memset(&header, 0, HEADER_SIZE)
        header.kind = KIND_TICKER
        header.flags = <uint16_t>(parser.window << 3)
        header.exchange_ns = parser.exchange_ns
        header.received_ns = received_ns
        return self.sink.send(market.ticker_topic, &header, market.ticker, TICKER_FIELDS * sizeof(double))

    cdef int take_trade(self, TickerMarket market, int64_t received_ns, int connection) except -1:
        cdef Parser parser = self.parser
        cdef int64_t id = parser.trade_id
        cdef int flags = 0
        cdef int fault = self.judge_trade(parser.price, parser.size, id)
        if fault == GOOD_TRADE:
            fault = self.judge_time(parser.exchange_ns, received_ns)
            if fault != TIME_GOOD:
                fault = BAD_PAST if fault == TIME_PAST else BAD_FUTURE
        if fault != GOOD_TRADE:
            self.refused[fault] += 1
            return 0
        # an older trade does not show from when on the stream is complete again
        if market.awaiting and parser.exchange_ns >= market.trade_ns:
            market.awaiting = False
            market.resumed_ns = parser.exchange_ns
        if market.ids.has(id):
            market.duplicates += 1
            market.differing += market.differs(parser.price, parser.size, parser.sell, id)
            return 0
        if self.contiguous:
            if market.strays(id):
                if id > market.trade_id:
                    self.refused[BAD_ID] += 1
                    return 0
            elif market.trade_id < 0 and market.trades:
                self.id_restarts += 1
        market.ids.put(id)
        if self.contiguous and market.trade_id >= 0 and id > market.trade_id + 1:
            self.on_missing_trades(market, market.trade_id + 1, id - 1, received_ns)
        if parser.sell:
            flags |= FLAG_SELL
        if parser.snapshot:
            flags |= FLAG_SNAPSHOT
        return self.send_trade(market, parser.price, parser.size, flags, id, parser.exchange_ns, received_ns)

    cdef int send_trade(
        self, TickerMarket market, double price, double size, int flags, int64_t id, int64_t exchange_ns,
        int64_t received_ns,
    ) except -1:
        cdef Header header
        cdef double payload[2]
        if id > market.trade_id:
            market.trade_id = id
        market.keep(exchange_ns, price, size, flags & FLAG_SELL != 0, not flags & FLAG_REST, id)
        market.traded += size
        market.trades += 1
        memset(&header, 0, HEADER_SIZE)
        header.kind = KIND_TRADE
        header.flags = <uint16_t>flags
        header.exchange_ns = exchange_ns
        header.received_ns = received_ns
        header.id = id
        payload[0] = price
        payload[1] = size
        return self.sink.send(market.trade_topic, &header, payload, sizeof(payload))

    def add_rest_trade(
        self, TickerMarket market not None, double price, double size, bint sell, int64_t id, int64_t exchange_ns,
        int64_t received_ns,
    ):
        """Publish a REST trade that the stream did not bring; return whether it was new.

        The id must be an id of the stream where REST and stream have the same ids.
        """
        cdef int64_t newest = market.trade_id
        if not market.ids.put(id):
            return False
        market.trades_by_rest += 1
        self.send_trade(
            market, price, size, FLAG_REST | (FLAG_SELL if sell else 0), id, exchange_ns, received_ns,
        )
        # REST ids must not move the stream's position: the stream may have other ids
        market.trade_id = newest
        return True

    def on_missing_trades(self, TickerMarket market, int64_t first, int64_t last, int64_t received_ns):
        """Called before a trade is published when the trades first to last before it are missing."""
        raise NotImplementedError(f"{type(self).__name__}.on_missing_trades")
