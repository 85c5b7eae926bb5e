"""Base of all collectors: frames in, messages per market out."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp

from coinspace._ext.parser cimport CONTROL, END, IGNORED, MALFORMED, ORDERBOOK, Parser, TICKER, TOP, TRADE
from coinspace._ext.sink cimport Sink

# a larger step back of the exchange's time is a step of its clock, not an old message that came late
cdef int64_t clock_step_ns = 60_000_000_000
# an older time is believed after this long without an accepted message
cdef int64_t patience_ns = 5_000_000_000
# Oldest believed time before receipt: the last trade of a quiet market, sent after the subscription, can be years old,
# and recordings are played years later.
PAST_NS = 10 * 365 * 86_400 * 1_000_000_000
# Newest believed time after receipt: maintained clocks differ by less. Later trades and tickers are refused, because
# missing trades are found by the newest time. A later book is published: only an absurd time is left out of it.
FUTURE_NS = 600 * 1_000_000_000
# after this many later times in a row, the exchange's clock was set or the clock of this host was wrong …
cdef int too_new_row = 20
# … and such times are believed up to this difference, which covers a wrong time zone
cdef int64_t clock_error_ns = 86_400 * <int64_t>1_000_000_000

# messages of one frame, and control messages among them: a list of all tickers of an exchange has some thousands. The
# loop stands still for the time of a frame
MOST_MESSAGES = 10_000
MOST_CONTROLS = 100

cdef int most_messages = MOST_MESSAGES
cdef int most_controls = MOST_CONTROLS
cdef int64_t past_ns = PAST_NS
cdef int64_t future_ns = FUTURE_NS


cdef inline uint64_t symbol_hash(const char *symbol, Py_ssize_t size) noexcept nogil:
    # FNV-1a: symbols are short
    cdef uint64_t value = <uint64_t>14695981039346656037ULL
    cdef Py_ssize_t i
    for i in range(size):
        value = (value ^ <unsigned char>symbol[i]) * <uint64_t>1099511628211ULL
    return value


cdef bint absurd_time(int64_t exchange_ns, int64_t received_ns) noexcept:
    return exchange_ns < received_ns - past_ns or exchange_ns > received_ns + clock_error_ns


cdef bint in_order(MarketEntry market, int64_t exchange_ns, int64_t now_ns) noexcept:
    if exchange_ns != 0 and exchange_ns < market.exchange_ns:
        if (
            market.exchange_ns - exchange_ns <= clock_step_ns
            and now_ns - market.accepted_ns <= patience_ns
        ):
            market.backwards += 1
            return False
        market.clock_steps += 1
    market.accepted_ns = now_ns
    return True


cdef class MarketEntry:
    def __init__(self, int index, str symbol not None, str market not None):
        self.index = index
        self.symbol = symbol.encode()
        self.market = market
        self.hash = symbol_hash(PyBytes_AS_STRING(self.symbol), PyBytes_GET_SIZE(self.symbol))

    def __repr__(self):
        return f"<{type(self).__name__} {self.market} {self.symbol.decode()} frames={self.frames}>"


cdef class Collector:
    """Base of the order book and the ticker collector."""

    def __init__(self, Parser parser not None, Sink sink not None, list markets not None):
        self.parser = parser
        self.sink = sink
        self.markets = markets
        self.arrange()

    def __dealloc__(self):
        free(self.slots)

    cdef int arrange(self) except -1:
        cdef MarketEntry entry
        cdef uint64_t slot
        cdef uint64_t room = 16
        cdef void **slots
        while room < <uint64_t>(4 * len(self.markets)):
            room *= 2
        slots = <void **>calloc(room, sizeof(void *))
        if slots == NULL:
            raise MemoryError()
        for entry in self.markets:
            if entry.gone:
                continue
            slot = entry.hash & (room - 1)
            while slots[slot] != NULL:
                slot = (slot + 1) & (room - 1)
            slots[slot] = <void *>entry
        free(self.slots)
        self.slots = slots
        self.mask = room - 1
        return 0

    def put(self, MarketEntry entry not None):
        """Collect one more market: at the end of the list, or in the place of one that is gone."""
        cdef MarketEntry before
        if not 0 <= entry.index <= len(self.markets):
            raise ValueError(f"index: expected 0 to {len(self.markets)}, was {entry.index}")
        if entry.index == len(self.markets):
            self.markets.append(entry)
        else:
            before = self.markets[entry.index]
            if not before.gone:
                raise ValueError(f"index {entry.index}: expected a market that is gone, was {before.market}")
            self.markets[entry.index] = entry
        self.arrange()

    def drop(self, MarketEntry entry not None):
        """Collect a market no more: its frames are counted as those of an unknown symbol."""
        entry.gone = True
        self.arrange()

    cdef void *find(self, const char *symbol, Py_ssize_t size) noexcept:
        cdef uint64_t wanted = symbol_hash(symbol, size)
        cdef uint64_t slot = wanted & self.mask
        cdef MarketEntry entry
        while self.slots[slot] != NULL:
            entry = <MarketEntry>self.slots[slot]
            if entry.hash == wanted and PyBytes_GET_SIZE(entry.symbol) == size and memcmp(
                PyBytes_AS_STRING(entry.symbol), symbol, size
            ) == 0:
                return self.slots[slot]
            slot = (slot + 1) & self.mask
        return NULL

    def entry(self, str symbol not None):
        """Return the entry of a symbol, None when it is not collected."""
        cdef bytes spelled = symbol.encode()
        cdef void *found = self.find(PyBytes_AS_STRING(spelled), PyBytes_GET_SIZE(spelled))
        return <MarketEntry>found if found != NULL else None

    cdef int feed(
        self, const char *frame, Py_ssize_t size, int64_t received_ns, int64_t now_ns, int connection,
    ) except -1:
        cdef Parser parser = self.parser
        cdef MarketEntry market
        cdef void *found
        cdef const char *at
        cdef Py_ssize_t length
        cdef int kind
        cdef int messages = 0
        cdef int controls = 0
        self.frames += 1
        self.bytes_received += size
        self.now_ns = now_ns
        parser.begin(frame, size)
        while True:
            kind = parser.next()
            if kind == END:
                return 0
            messages += 1
            controls += kind == CONTROL
            if messages > most_messages or controls > most_controls:
                kind = MALFORMED
            if kind == ORDERBOOK or kind == TICKER or kind == TRADE:
                self.messages += 1
                found = self.find(parser.symbol, parser.symbol_size)
                if found == NULL:
                    self.unknown_symbols += 1
                    continue
                market = <MarketEntry>found
                market.frames += 1
                market.heard_ns = now_ns
                if parser.list_end is not NULL:
                    # what is kept of a list is the message alone
                    at, length = parser.message_at, parser.message_to - parser.message_at
                else:
                    at, length = frame, size
                self.take(market, kind, at, length, received_ns, connection)
            elif kind == TOP:
                found = self.find(parser.symbol, parser.symbol_size)
                if found != NULL:
                    self.take_top(<MarketEntry>found, received_ns)
            elif kind == IGNORED:
                self.ignored += 1
            elif kind == CONTROL:
                self.controls += 1
                # not the whole frame: a list of many messages would be copied and read once for each of them
                self.on_control(
                    PyBytes_FromStringAndSize(parser.detail, parser.detail_size), received_ns, connection,
                )
            elif kind == MALFORMED:
                self.malformed += 1
                self.on_malformed(PyBytes_FromStringAndSize(frame, size), received_ns, connection)
                return 0

    cdef int judge_time(self, int64_t exchange_ns, int64_t received_ns) noexcept:
        if not self.timed:
            self.timed = True
            self.lead_ns = received_ns - self.now_ns
        if exchange_ns < received_ns - past_ns:
            return TIME_PAST
        # a step of this host's wall clock does not move this limit
        if exchange_ns <= self.now_ns + self.lead_ns + future_ns:
            self.too_new = 0
            return TIME_GOOD
        self.too_new += 1
        if self.too_new < too_new_row or exchange_ns > received_ns + clock_error_ns:
            return TIME_FUTURE
        self.too_new = 0
        self.lead_ns = exchange_ns - self.now_ns
        return TIME_GOOD

    def newest_ns(self, int64_t received_ns):
        """Return the newest time of the exchange that is believed now. Args: received_ns: the wall clock."""
        return self.now_ns + (self.lead_ns if self.timed else received_ns - self.now_ns) + future_ns

    cdef int take(
        self, MarketEntry market, int kind, const char *frame, Py_ssize_t size, int64_t received_ns, int connection,
    ) except -1:
        raise NotImplementedError(f"{type(self).__name__}.take")

    cdef int take_top(self, MarketEntry market, int64_t received_ns) except -1:
        return 0

    def on_frame(self, bytes frame not None, int64_t received_ns, int connection=0, int64_t now_ns=0):
        """Read one frame on the same path as live frames; for replays and tests.

        Args: now_ns: the monotonic clock, 0 = the same as received_ns.
        """
        self.feed(
            PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame), received_ns, now_ns or received_ns, connection,
        )

    def on_control(self, bytes frame, int64_t received_ns, int connection):
        """Called for acknowledgements, errors, status and shutdown messages. Args: frame: the message alone."""
        raise NotImplementedError(f"{type(self).__name__}.on_control")

    def on_malformed(self, bytes frame, int64_t received_ns, int connection):
        """Called for a frame that cannot be read."""
        raise NotImplementedError(f"{type(self).__name__}.on_malformed")
