"""Binance spot WebSocket frames (https://github.com/binance/binance-spot-api-docs), raw and combined streams.

1. Prices and sizes are strings.
2. A combined stream wraps the payload: `{"stream":"btcusdt@depth20","data":{…}}`.
3. `depthUpdate` is a diff with absolute sizes, 0 = delete; `U`..`u` are its first and final update ids.
4. Partial depth has neither symbol nor time; the symbol is the wrapper's stream up to `@`, in capitals.
5. bookTicker has neither event name nor time.
6. `m` true = the buyer is the maker = the taker sold. `T` is the time of the trade.
7. Times are ms, or µs with `timeUnit=MICROSECOND`; the magnitude shows the unit.
8. Errors are flat (`code`, `msg`) or wrapped (`error`); `result` is null in acknowledgements, an array in subscription
   lists.
9. `!miniTicker@arr` has several messages in one frame.
10. `b` and `a` are levels, prices or order ids, depending on the event. They are converted when the event is known.

    {"e":"depthUpdate","E":1672515782136,"s":"BNBBTC","U":157,"u":160,"b":[["0.0024","10"]],"a":[["0.0026","100"]]}
"""

from libc.math cimport NAN
from libc.string cimport memchr, memcmp

from coinspace._ext.parser cimport (
    ABSENT, ACK, ARRAY, ASK, ASK_SIZE, BID, BID_SIZE, DAY_24H, ERROR, FALSE, IGNORED, LAST, LEVELS, LEVEL_PAD,
    LONG_NUMBER, MALFORMED, NO_TYPE, NUMBER, OBJECT, ORDERBOOK, Parser, SHUTDOWN, Side, STRING, TICKER, TICKER_SIZE,
    TINY, TOP, TRADE, TRUE, BAD_LEVEL, WRONG, add_level, is_text, level_number, level_quoted, padded, pairs_falling,
    pairs_rising, open_side,
)
from coinspace._ext.scan cimport skip_space, skip_value, string_close

cdef enum:
    BAD_BIDS = 1
    BAD_ASKS = 2

cdef enum:
    STREAM = 0
    DATA = 1
    S_EVENT = 2
    S_TIME = 3
    S_SYMBOL = 4
    S_FIRST = 5         # U
    S_FINAL = 6         # u
    S_b = 7
    S_a = 8
    S_B = 9
    S_A = 10
    S_LAST_ID = 11
    S_BIDS = 12
    S_ASKS = 13
    S_t = 14
    S_p = 15
    S_q = 16
    S_TRADE_TIME = 17   # T
    S_m = 18
    S_c = 19
    S_o = 20
    S_h = 21
    S_l = 22
    S_v = 23
    S_RESULT = 24
    S_ID = 25
    S_CODE = 26
    S_MSG = 27
    S_ERROR = 28

FIELDS = (
    "stream", "data", "e", "E", "s", "U", "u", "b", "a", "B", "A", "lastUpdateId", "bids", "asks", "t", "p", "q",
    "T", "m", "c", "o", "h", "l", "v", "result", "id", "code", "msg", "error",
)

# slot of each ticker field, in the order of the fields (LAST first)
cdef int TICKER_SLOTS[11]
TICKER_SLOTS[:] = [S_c, S_o, S_h, S_l, S_v, S_q, S_p, S_b, S_B, S_a, S_A]

cdef const char *SUBSCRIPTIONS = "LIST_SUBSCRIPTIONS"
cdef const char *RESPONSE = "response"


cdef class BinanceParser(Parser):
    """Parser of Binance's frames.

    Args: markets: symbol to market ("BTCUSDT": "BTC/USDT"), used by `decode`.
    """

    exchange = "binance"

    def __init__(self, capacity=0, markets=None):
        self.markets = dict(markets or {})
        self.name_slots(FIELDS, {name.encode(): slot for slot, name in enumerate(FIELDS)})
        self.has_ids = True
        self.level_slots = 1 << S_b | 1 << S_a | 1 << S_BIDS | 1 << S_ASKS

    cdef object market(self, str symbol):
        return self.markets.get(symbol)

    cdef int single(self, const char *p) noexcept:
        # the wrapper as Binance writes it today; any other form is read in two passes
        cdef const char *end = self.end
        cdef const char *stream = p + 11
        cdef const char *close
        cdef const char *after
        cdef bint escaped
        if end - p < 32 or memcmp(p, b'{"stream":"', 11) != 0:
            return Parser.single(self, p)
        close = string_close(stream, end, &escaped)
        if close is NULL or escaped or end - close < 10 or memcmp(close, b'","data":{', 10) != 0:
            return Parser.single(self, p)
        self.clear()
        after = self.scan(close + 10, 2)
        if after is NULL or after >= end or after[0] != c'}' or skip_space(after + 1, end) != end:
            return Parser.single(self, p)
        self.message_at = close + 9
        self.message_to = after
        self.stream = stream
        self.stream_end = close
        return self._payload()

    cdef int message(self) noexcept:
        cdef int data = self.slots.type[DATA]
        if self.slots.type[STREAM] == STRING and (data == OBJECT or data == ARRAY):
            return self._wrapped()
        self.stream_end = self.stream
        return self._payload()

    cdef int _wrapped(self) noexcept:
        cdef const char *stream = self.slots.at[STREAM]
        cdef const char *stream_end = self.slots.to[STREAM]
        cdef const char *at = self.slots.at[DATA]
        cdef const char *to = self.slots.to[DATA]
        if self.slots.type[DATA] == ARRAY:
            if self.list_end is not NULL:
                return self.fail(WRONG, DATA, at)
            return self.open_list(at, to)
        self.clear()
        if self.scan(at + 1, 2) is NULL:
            return self.fail(WRONG, DATA, at)
        self.message_at = at
        self.message_to = to
        self.stream = stream
        self.stream_end = stream_end
        return self._payload()

    cdef int _stream_symbol(self) noexcept:
        # "btcusdt@depth20@100ms": the part before the first @, in capitals
        cdef const char *p = self.stream
        cdef const char *end = self.stream_end
        cdef const char *at = <const char*>memchr(p, c'@', <size_t>(end - p)) if p < end else NULL
        cdef Py_ssize_t size = at - p if at is not NULL else 0
        cdef Py_ssize_t i
        cdef char *copy
        self.symbol_size = 0
        if size == 0 or p[0] == c'!':
            return 0
        copy = self.take_room(size)
        if copy is NULL:
            return 0
        for i in range(size):
            copy[i] = p[i] - 32 if c'a' <= p[i] <= c'z' else p[i]
        self.symbol = copy
        self.symbol_size = size
        return 0

    cdef int _payload(self) noexcept:
        if self.slots.type[S_EVENT] == STRING:
            return self._event()
        if self.slots.type[S_EVENT] != ABSENT:
            return self.fail(WRONG, S_EVENT, self.slots.at[S_EVENT])
        if self.slots.type[S_LAST_ID] != ABSENT:
            return self._partial()
        if self.slots.type[S_FINAL] != ABSENT and self.slots.type[S_SYMBOL] != ABSENT:
            return self._top()
        cdef bint flat = self.slots.type[S_MSG] == STRING and (
            self.slots.type[S_CODE] == NUMBER or self.slots.type[S_CODE] == LONG_NUMBER
        )
        if self.slots.type[S_ERROR] == OBJECT or flat:
            return self.control_message(ERROR)
        if self.slots.type[S_RESULT] == ARRAY:
            self.detail = SUBSCRIPTIONS
            self.detail_size = 18
            return IGNORED
        if self.slots.type[S_RESULT] == OBJECT:
            # an answer of the request socket, such as a book or a price; CoinSpace sends no such requests
            self.detail = RESPONSE
            self.detail_size = 8
            return IGNORED
        if self.slots.type[S_RESULT] != ABSENT or self.nulls >> S_RESULT & 1:
            return self.control_message(ACK)
        return self.fail(NO_TYPE, 0, self.message_at)

    cdef int _event(self) noexcept:
        if is_text(self, S_EVENT, b"depthUpdate", 11):
            return self._diff()
        if is_text(self, S_EVENT, b"trade", 5):
            return self._trade(S_t)
        if is_text(self, S_EVENT, b"aggTrade", 8):
            return self._trade(S_a)
        if is_text(self, S_EVENT, b"24hrTicker", 10) or is_text(self, S_EVENT, b"24hrMiniTicker", 14):
            return self._ticker()
        if is_text(self, S_EVENT, b"bookTicker", 10):
            return self._top()
        if is_text(self, S_EVENT, b"serverShutdown", 14):
            return self.control_message(SHUTDOWN)
        return self.ignore(S_EVENT)

    cdef int _symbol(self) noexcept:
        # read the symbol of the event; return 0 or MALFORMED
        cdef int state = 1 if self.slots.type[S_SYMBOL] == STRING else 0 if self.slots.type[S_SYMBOL] == ABSENT else -1
        self.symbol = self.slots.at[S_SYMBOL]
        self.symbol_size = self.slots.to[S_SYMBOL] - self.slots.at[S_SYMBOL]
        if state > 0 and self.symbol_size == 0:
            state = -1
        return self.needs(state, S_SYMBOL)

    cdef int _sides(self, int bids, int asks) noexcept:
        cdef int slot = bids if self.slots.type[bids] != LEVELS else asks
        if self.slots.type[slot] != LEVELS:
            return self.needs(0 if self.slots.type[slot] == ABSENT else -1, slot)
        # another array, under the name of another event, may have overwritten a side: read the side again
        if self.bid_slot != bids:
            self.levels(bids, self.slots.at[bids])
        if self.ask_slot != asks:
            self.levels(asks, self.slots.at[asks])
        return 0

    cdef int _diff(self) noexcept:
        if (
            self._symbol()
            or self.needs(self.as_integer(S_FIRST, &self.first_update_id), S_FIRST)
            or self.needs(self.as_integer(S_FINAL, &self.final_update_id), S_FINAL)
            or self._sides(S_b, S_a)
        ):
            return MALFORMED
        if self.as_time(S_TIME, &self.exchange_ns) < 0:
            return self.fail(WRONG, S_TIME, self.slots.at[S_TIME])
        if self.bad_sides:
            # the book would be wrong with or without the level; a refused diff leaves a gap, which is repaired
            return self.fail(BAD_LEVEL, S_b if self.bad_sides & BAD_BIDS else S_a, self.message_at)
        self.snapshot = False
        return ORDERBOOK

    cdef int _partial(self) noexcept:
        if self.needs(self.as_integer(S_LAST_ID, &self.final_update_id), S_LAST_ID) or self._sides(S_BIDS, S_ASKS):
            return MALFORMED
        self._stream_symbol()
        self.exchange_ns = 0
        self.first_update_id = 0
        self.snapshot = True
        return ORDERBOOK

    cdef int _top(self) noexcept:
        if (
            self._symbol()
            or self.needs(self.as_integer(S_FINAL, &self.final_update_id), S_FINAL)
            or self.needs(self.as_number(S_b, &self.ticker[BID]), S_b)
            or self.needs(self.as_number(S_B, &self.ticker[BID_SIZE]), S_B)
            or self.needs(self.as_number(S_a, &self.ticker[ASK]), S_a)
            or self.needs(self.as_number(S_A, &self.ticker[ASK_SIZE]), S_A)
        ):
            return MALFORMED
        if self.as_time(S_TIME, &self.exchange_ns) < 0:
            return self.fail(WRONG, S_TIME, self.slots.at[S_TIME])
        return TOP

    cdef int _trade(self, int id_slot) noexcept:
        cdef int maker = self.slots.type[S_m]
        if (
            self._symbol()
            or self.needs(self.as_number(S_p, &self.price), S_p)
            or self.needs(self.as_number(S_q, &self.size), S_q)
            or self.needs(self.as_integer(id_slot, &self.trade_id), id_slot)
            or self.needs(self.as_time(S_TRADE_TIME, &self.exchange_ns), S_TRADE_TIME)
            or self.needs(1 if maker == TRUE or maker == FALSE else 0 if maker == ABSENT else -1, S_m)
        ):
            return MALFORMED
        self.sell = maker == TRUE
        self.snapshot = False
        return TRADE

    cdef int _ticker(self) noexcept:
        cdef int i
        cdef int slot
        if self._symbol() or self.needs(self.as_number(S_c, &self.ticker[LAST]), S_c):
            return MALFORMED
        if self.as_time(S_TIME, &self.exchange_ns) < 0:
            return self.fail(WRONG, S_TIME, self.slots.at[S_TIME])
        for i in range(1, TICKER_SIZE):
            self.ticker[i] = NAN
            slot = TICKER_SLOTS[i]
            if self.as_number(slot, &self.ticker[i]) < 0:
                return self.fail(WRONG, slot, self.slots.at[slot])
        self.window = DAY_24H
        return TICKER

    cdef const char *levels(self, int slot, const char *p) noexcept:
        cdef const char *end = self.end
        cdef bint falling = slot == S_b or slot == S_BIDS
        cdef bint whole = slot == S_BIDS or slot == S_ASKS
        cdef bint unread = False
        cdef double price = 0
        cdef double size = 0
        self.bad_sides &= ~(BAD_BIDS if falling else BAD_ASKS)
        open_side(self, falling)
        if falling:
            self.bid_slot = slot
        else:
            self.ask_slot = slot
        p = skip_space(p + 1, end)
        if p < end and p[0] == c']':
            return p + 1
        while True:
            p = self._pairs(p, falling, whole, &unread)
            if unread:
                # one level in any form, then the template again
                self.template_misses += 1
                p = self._level(p, &price, &size)
                if p is NULL:
                    return NULL
                self._add(falling, whole, price, size)
            p = skip_space(p, end)
            if p >= end:
                return NULL
            if p[0] == c']':
                if self.unsorted:
                    self.settle(falling)
                return p + 1
            if p[0] != c',':
                return NULL
            p = skip_space(p + 1, end)

    cdef const char *_pairs(self, const char *p, bint falling, bint whole, bint *unread) noexcept:
        # levels as Binance writes them today. Returns: the place behind the last one; p and `unread` when the first has
        # another form
        cdef const char *end = self.end
        cdef const char *at
        cdef const char *after
        cdef char copy[2 * LEVEL_PAD]
        cdef double price = 0
        cdef double size = 0
        cdef Side side
        side.prices = self.bid_price if falling else self.ask_price
        side.sizes = self.bid_size if falling else self.ask_size
        side.n = self.n_bids if falling else self.n_asks
        side.room = self.capacity
        # size 0 deletes a level in a diff, so it is kept there
        side.least = TINY if whole else 0.0
        after = pairs_falling(p, end, &side) if falling else pairs_rising(p, end, &side)
        if falling:
            self.n_bids = side.n
        else:
            self.n_asks = side.n
        unread[0] = False
        if after != p:
            return after
        at = padded(p, end, copy)
        after = level_quoted(at, &price, &size)
        if after is NULL:
            unread[0] = True
            return p
        self._add(falling, whole, price, size)
        return p + (after - at)

    cdef int _add(self, bint falling, bint whole, double price, double size) noexcept:
        if price > 0 and (size > 0 or (size == 0 and not whole)):
            add_level(self, falling, price, size)
        elif not whole:
            self.bad_sides |= BAD_BIDS if falling else BAD_ASKS
        return 0

    cdef const char *_level(self, const char *p, double *price, double *size) noexcept:
        # one `[price, size]` with spaces anywhere; further elements, which older versions sent, are skipped
        cdef const char *end = self.end
        cdef const char *at
        if p >= end or p[0] != c'[':
            return NULL
        p = level_number(self, skip_space(p + 1, end), price)
        if p is NULL:
            return NULL
        p = skip_space(p, end)
        if p >= end or p[0] != c',':
            return NULL
        p = level_number(self, skip_space(p + 1, end), size)
        while p is not NULL:
            p = skip_space(p, end)
            if p >= end:
                return NULL
            if p[0] == c']':
                return p + 1
            if p[0] != c',':
                return NULL
            p = skip_value(skip_space(p + 1, end), end, self.depth + 2, &at)
        return NULL
