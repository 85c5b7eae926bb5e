"""Coinbase Exchange WebSocket frames (https://docs.cdp.coinbase.com/exchange).

1. A `snapshot` is the whole book, of several MB in a busy market; `l2update` has absolute sizes, and 0 deletes a level.
   Neither has a sequence number. Changes of one price in a frame apply in their order.
2. Sizes that are no numbers (`0.-10000`) were seen. Such a level is left out, in an update as if it were deleted, and
   the book is `flawed`.
3. Times are RFC 3339 texts. The year 1 on valid updates was seen: such a time is none.
4. `side` of a trade is that of the maker: "sell" means that the taker bought.
5. Ids of trades count up by one in each market. `last_match` repeats the newest trade after a subscription, and a
   heartbeat names its id every second.

    {"type":"snapshot","product_id":"BTC-USD","asks":[["price","size"],…],"bids":[…],"time":"…Z"}
    {"type":"l2update","product_id":"BTC-USD","changes":[["buy","63210.11","0.3"],["sell","63210.50","0.00000000"]],
     "time":"2026-06-19T16:43:34.000000Z"}
"""

from libc.math cimport NAN
from libc.string cimport memcmp

from coinspace._ext.parser cimport (
    ABSENT, ACK, ASK, ASK_SIZE, BID, BID_SIZE, DAY_24H, ERROR, HEARTBEAT, HIGH, LAST, LEVELS, LOW, MALFORMED, NO_TYPE,
    OPEN, ORDERBOOK, Parser, Side, STRING, TICKER, TINY, TRADE, VOLUME, WRONG, add_level, is_text, level_number,
    pairs_falling, pairs_rising, open_side,
)
from coinspace._ext.scan cimport skip_space, skip_value, string_close, unescape

cdef enum:
    TYPE = 0
    PRODUCT = 1
    TIME = 2
    ASKS = 3
    BIDS = 4
    CHANGES = 5
    TRADE_ID = 6
    SIDE = 7
    SIZE = 8
    PRICE = 9
    LAST_TRADE = 10
    OPEN_24H = 11
    HIGH_24H = 12
    LOW_24H = 13
    VOLUME_24H = 14
    BEST_BID = 15
    BEST_BID_SIZE = 16
    BEST_ASK = 17
    BEST_ASK_SIZE = 18

FIELDS = (
    "type", "product_id", "time", "asks", "bids", "changes", "trade_id", "side", "size", "price", "last_trade_id",
    "open_24h", "high_24h", "low_24h", "volume_24h", "best_bid", "best_bid_size", "best_ask", "best_ask_size",
)

# fields of the ticker, and their slots
cdef int TICKER_FIELDS[9]
cdef int TICKER_SLOTS[9]
TICKER_FIELDS[:] = [LAST, OPEN, HIGH, LOW, VOLUME, BID, BID_SIZE, ASK, ASK_SIZE]
TICKER_SLOTS[:] = [
    PRICE, OPEN_24H, HIGH_24H, LOW_24H, VOLUME_24H, BEST_BID, BEST_BID_SIZE, BEST_ASK, BEST_ASK_SIZE,
]

cdef enum:
    SELLS = 1        # a snapshot's side that was read, as bits
    BUYS = 2


cdef class CoinbaseParser(Parser):
    """Parser of Coinbase Exchange's frames."""

    exchange = "coinbase"

    def __init__(self, *args, **kwargs):
        self.name_slots(FIELDS, {name.encode(): slot for slot, name in enumerate(FIELDS)})
        self.level_slots = 1 << ASKS | 1 << BIDS | 1 << CHANGES

    cdef object market(self, str symbol):
        base, dash, quote = symbol.partition("-")
        return f"{base}/{quote}" if dash else None

    cdef int message(self) noexcept:
        if self.slots.type[TYPE] != STRING:
            if self.slots.type[TYPE] != ABSENT:
                return self.fail(WRONG, TYPE, self.slots.at[TYPE])
            return self.fail(NO_TYPE, 0, self.message_at)
        if is_text(self, TYPE, b"l2update", 8):
            return self._update()
        if is_text(self, TYPE, b"match", 5):
            return self._trade(False)
        if is_text(self, TYPE, b"ticker", 6):
            return self._ticker()
        if is_text(self, TYPE, b"heartbeat", 9):
            return self._heartbeat()
        if is_text(self, TYPE, b"snapshot", 8):
            return self._snapshot()
        if is_text(self, TYPE, b"last_match", 10):
            return self._trade(True)
        if is_text(self, TYPE, b"subscriptions", 13):
            return self.control_message(ACK)
        if is_text(self, TYPE, b"error", 5):
            return self.control_message(ERROR)
        return self.ignore(TYPE)

    cdef int _head(self) noexcept:
        # read the symbol; return 0 or MALFORMED
        cdef int state = 1 if self.slots.type[PRODUCT] == STRING else 0 if self.slots.type[PRODUCT] == ABSENT else -1
        self.symbol = self.slots.at[PRODUCT]
        self.symbol_size = self.slots.to[PRODUCT] - self.slots.at[PRODUCT]
        if state > 0 and self.symbol_size == 0:
            state = -1
        return self.needs(state, PRODUCT)

    cdef int _instant(self, int slot, bint needed) noexcept:
        # an update is not lost because of its time; return 0 or MALFORMED
        cdef int state = self.as_instant(slot, &self.exchange_ns)
        if not needed:
            return 0
        return self.needs(state, slot)

    cdef int _snapshot(self) noexcept:
        cdef int slot
        if self._head():
            return MALFORMED
        for slot in range(ASKS, BIDS + 1):
            if self.slots.type[slot] != LEVELS:
                return self.needs(0 if self.slots.type[slot] == ABSENT else -1, slot)
        self._instant(TIME, False)
        self.snapshot = True
        return self._book()

    cdef int _update(self) noexcept:
        if self._head():
            return MALFORMED
        if self.slots.type[CHANGES] != LEVELS:
            return self.needs(0 if self.slots.type[CHANGES] == ABSENT else -1, CHANGES)
        self._instant(TIME, False)
        self.snapshot = False
        return self._book()

    cdef int _book(self) noexcept:
        self.first_update_id = 0
        self.final_update_id = 0
        return ORDERBOOK

    cdef int _trade(self, bint repeated) noexcept:
        cdef bint buy = is_text(self, SIDE, b"buy", 3)
        if (
            self._head()
            or self.needs(self.as_number(PRICE, &self.price), PRICE)
            or self.needs(self.as_number(SIZE, &self.size), SIZE)
            or self.needs(self.as_integer(TRADE_ID, &self.trade_id), TRADE_ID)
            or self._instant(TIME, True)
        ):
            return MALFORMED
        if not buy and not is_text(self, SIDE, b"sell", 4):
            return self.needs(0 if self.slots.type[SIDE] == ABSENT else -1, SIDE)
        # the maker bought, so the taker sold
        self.sell = buy
        self.snapshot = repeated
        return TRADE

    cdef int _ticker(self) noexcept:
        if self._head() or self.ticker_numbers(TICKER_SLOTS, TICKER_FIELDS, 9, PRICE):
            return MALFORMED
        self._instant(TIME, False)
        self.day_volume = NAN
        self.suspended = False
        self.window = DAY_24H
        return TICKER

    cdef int _heartbeat(self) noexcept:
        if self._head() or self.needs(self.as_integer(LAST_TRADE, &self.trade_id), LAST_TRADE):
            return MALFORMED
        return self.control_message(HEARTBEAT)

    # levels

    cdef const char *levels(self, int slot, const char *p) noexcept:
        cdef const char *end = self.end
        cdef bint falling = slot == BIDS
        if slot == CHANGES:
            return self._changes(p)
        open_side(self, falling)
        self.flawed &= ~(1 << falling)
        p = skip_space(p + 1, end)
        if p < end and p[0] == c']':
            return p + 1
        while p < end and p[0] == c'[':
            p = self._pairs(p, falling)
            if p < end and p[0] == c'[':
                p = self._level(p, falling)
                if p is NULL:
                    return NULL
            p = skip_space(p, end)
            if p >= end:
                return NULL
            if p[0] == c']':
                self.settle(falling)
                return p + 1
            if p[0] != c',':
                return NULL
            p = skip_space(p + 1, end)
        return NULL

    cdef const char *_pairs(self, const char *p, bint falling) noexcept:
        # levels as they are written today. Returns: the place behind the last one, p when the first has another form
        cdef const char *after
        cdef Side side
        side.prices = self.bid_price if falling else self.ask_price
        side.sizes = self.bid_size if falling else self.ask_size
        side.n = self.n_bids if falling else self.n_asks
        side.room = self.capacity
        side.least = TINY
        after = pairs_falling(p, self.end, &side) if falling else pairs_rising(p, self.end, &side)
        if falling:
            self.n_bids = side.n
        else:
            self.n_asks = side.n
        return after

    cdef const char *_level(self, const char *p, bint falling) noexcept:
        # one `[price, size]` in any form, p at its bracket; further elements are skipped
        cdef double price = 0
        cdef double size = 0
        cdef bint good = True
        cdef const char *end = self.end
        p = self._number(skip_space(p + 1, end), &price, &good)
        if p is NULL or p >= end or p[0] != c',':
            return NULL
        p = self._number(skip_space(p + 1, end), &size, &good)
        if p is NULL:
            return NULL
        if good and price > 0 and size > 0:
            add_level(self, falling, price, size)
        elif not good or price <= 0 or size < 0:
            self.flawed |= 1 << falling
        return self._rest(p)

    cdef const char *_changes(self, const char *p) noexcept:
        cdef const char *end = self.end
        self.open_sides()
        self.flawed = 0
        p = skip_space(p + 1, end)
        if p < end and p[0] == c']':
            return p + 1
        while p < end and p[0] == c'[':
            p = self._change(p)
            if p is NULL:
                return NULL
            p = skip_space(p, end)
            if p >= end:
                return NULL
            if p[0] == c']':
                self.settle(True)
                self.settle(False)
                return p + 1
            if p[0] != c',':
                return NULL
            p = skip_space(p + 1, end)
        return NULL

    cdef const char *_change(self, const char *p) noexcept:
        # one `["buy" or "sell", price, size]`, p at its bracket
        cdef const char *end = self.end
        cdef const char *side
        cdef const char *at
        cdef const char *close
        cdef char *copy
        cdef bint escaped
        cdef Py_ssize_t length
        cdef double price = 0
        cdef double size = 0
        cdef bint falling = False
        cdef bint known
        cdef bint good = True
        side = skip_space(p + 1, end)
        p = skip_value(side, end, self.depth + 2, &at)
        if p is NULL:
            return NULL
        length = 0
        if side[0] == c'"':
            side += 1
            close = string_close(side, end, &escaped)
            length = close - side
            if escaped:
                copy = self.take_room(length)
                if copy is NULL:
                    return NULL
                length = unescape(side, close, copy)
                side = copy
        falling = length == 3 and memcmp(side, b"buy", 3) == 0
        known = falling or (length == 4 and memcmp(side, b"sell", 4) == 0)
        p = skip_space(p, end)
        if p >= end or p[0] != c',':
            return NULL
        p = self._number(skip_space(p + 1, end), &price, &good)
        if p is NULL or p >= end or p[0] != c',':
            return NULL
        known = known and good and price > 0
        p = self._number(skip_space(p + 1, end), &size, &good)
        if p is NULL:
            return NULL
        if known and good and size >= 0:
            add_level(self, falling, price, size)
        else:
            self.flawed |= SELLS | BUYS
            if known:
                # its size is not known: without the level, the book shows less than there is
                add_level(self, falling, price, 0)
        return self._rest(p)

    cdef const char *_number(self, const char *p, double *out, bint *good) noexcept:
        # read a number, or skip another value. Returns: the place of what follows
        cdef const char *at
        cdef const char *after = level_number(self, p, out)
        if after is NULL:
            good[0] = False
            after = skip_value(p, self.end, self.depth + 2, &at)
            if after is NULL:
                return NULL
        return skip_space(after, self.end)

    cdef const char *_rest(self, const char *p) noexcept:
        # skip further elements of a level. Returns: the place behind its bracket
        cdef const char *end = self.end
        cdef const char *at
        while p < end and p[0] == c',':
            p = skip_value(skip_space(p + 1, end), end, self.depth + 2, &at)
            if p is NULL:
                return NULL
            p = skip_space(p, end)
        return p + 1 if p < end and p[0] == c']' else NULL
