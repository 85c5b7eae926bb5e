"""Coinone WebSocket frames (https://docs.coinone.co.kr), DEFAULT and SHORT.

1. The market data of a frame are one object deep: `data`, in SHORT `d`. All other frames are control frames.
2. Every order book is a whole book. Asks come worst first, so that the best ask is the last one; bids come best first.
3. All numbers are texts. Levels with price <= 0 or size <= 0 are dropped.
4. `id` is a time in ms followed by three digits of a counter, and exceeds 2^53. It gives the time of every message:
   the `timestamp` of the first book after a subscription is 10 s old.
5. A symbol is the base of a market in KRW. A frame of another quote currency is refused.
6. `is_seller_maker` of a trade: the seller's order was resting, so the taker bought.
7. Open, high and low of a ticker count from 00:00 UTC, its volumes over 24 h. It is sent with trades, so its best
   prices may be old. They are null while a side is empty.

    {"r":"DATA","c":"ORDERBOOK","d":{"qc":"KRW","tc":"BTC","t":1790134177753,"i":"1790134177753001",
     "a":[{"p":"116650000","q":"0.01198956"},…],"b":[{"p":"116450000","q":"0.0118"},…]}}
"""

from libc.math cimport NAN, isnan
from libc.stdint cimport int64_t
from libc.string cimport memcmp

from coinspace._ext.parser cimport (
    ABSENT, ACK, ASK, ASK_SIZE, BID, BID_SIZE, ERROR, FALSE, HIGH, LAST, LEVELS, LOW, MALFORMED, NO_TYPE, NO_WINDOW,
    OBJECT, OPEN, ORDERBOOK, Parser, PONG, QUOTE_VOLUME, STATUS, STRING, TICKER, TRADE, TRUE, UTC_DAY, VOLUME, WRONG,
    add_level, is_text, open_side,
)
from coinspace._ext.scan cimport skip_space

cdef enum:
    RESPONSE = 0
    CHANNEL = 1
    DATA = 2
    QUOTE = 3
    BASE = 4
    ID = 5
    ASKS = 6
    BIDS = 7
    PRICE = 8
    QUANTITY = 9
    SELLER_MAKER = 10
    LAST_PRICE = 11
    FIRST_PRICE = 12
    HIGH_PRICE = 13
    LOW_PRICE = 14
    BASE_VOLUME = 15
    WORTH = 16
    BEST_BID = 17
    BEST_BID_SIZE = 18
    BEST_ASK = 19
    BEST_ASK_SIZE = 20

cdef enum:
    OTHER = 0
    BOOK_CHANNEL = 1
    TICKER_CHANNEL = 2
    TRADE_CHANNEL = 3

# slot -> name in DEFAULT, name in SHORT
FIELDS = {
    RESPONSE: ("response_type", "r"),
    CHANNEL: ("channel", "c"),
    DATA: ("data", "d"),
    QUOTE: ("quote_currency", "qc"),
    BASE: ("target_currency", "tc"),
    ID: ("id", "i"),
    ASKS: ("asks", "a"),
    BIDS: ("bids", "b"),
    PRICE: ("price", "p"),
    QUANTITY: ("qty", "q"),
    SELLER_MAKER: ("is_seller_maker", "sm"),
    LAST_PRICE: ("last", "la"),
    FIRST_PRICE: ("first", "fi"),
    HIGH_PRICE: ("high", "hi"),
    LOW_PRICE: ("low", "lo"),
    BASE_VOLUME: ("target_volume", "tv"),
    WORTH: ("quote_volume", "qv"),
    BEST_BID: ("bid_best_price", "bbp"),
    BEST_BID_SIZE: ("bid_best_qty", "bbq"),
    BEST_ASK: ("ask_best_price", "abp"),
    BEST_ASK_SIZE: ("ask_best_qty", "abq"),
}

# the digits of an id behind its time in ms, and the last time that fits into ns
cdef int64_t COUNTER = 1000
cdef int64_t LAST_MS = 9_000_000_000_000

# fields of the ticker, and their slots
cdef int TICKER_FIELDS[10]
cdef int TICKER_SLOTS[10]
TICKER_FIELDS[:] = [LAST, OPEN, HIGH, LOW, VOLUME, QUOTE_VOLUME, BID, BID_SIZE, ASK, ASK_SIZE]
TICKER_SLOTS[:] = [
    LAST_PRICE, FIRST_PRICE, HIGH_PRICE, LOW_PRICE, BASE_VOLUME, WORTH, BEST_BID, BEST_BID_SIZE, BEST_ASK,
    BEST_ASK_SIZE,
]


cdef int _level_field(const char *key, Py_ssize_t size) noexcept:
    """Return 0 for the price, 1 for the size, -1 for another key."""
    if (size == 1 and key[0] == c'p') or (size == 5 and memcmp(key, b"price", 5) == 0):
        return 0
    return 1 if (size == 1 and key[0] == c'q') or (size == 3 and memcmp(key, b"qty", 3) == 0) else -1


cdef inline bint _equal(const char *p, Py_ssize_t size, const char *capitals, Py_ssize_t n) noexcept:
    """Return whether a text is a name, in any case of letters."""
    cdef Py_ssize_t i
    if size != n:
        return False
    for i in range(n):
        if (p[i] - 32 if c'a' <= p[i] <= c'z' else p[i]) != capitals[i]:
            return False
    return True


cdef class CoinoneParser(Parser):
    """Parser of Coinone's frames."""

    exchange = "coinone"

    def __init__(self, *args, **kwargs):
        self.name_slots(
            tuple(names[0] for names in FIELDS.values()),
            {name.encode(): slot for slot, names in FIELDS.items() for name in names},
        )
        self.level_slots = 1 << ASKS | 1 << BIDS
        self.has_ids = True

    cdef object market(self, str symbol):
        return f"{symbol}/KRW"

    cdef int message(self) noexcept:
        cdef const char *data = self.slots.at[DATA]
        cdef const char *whole = self.message_at
        cdef const char *whole_end = self.message_to
        if self.slots.type[RESPONSE] != STRING:
            if self.slots.type[RESPONSE] != ABSENT:
                return self.fail(WRONG, RESPONSE, self.slots.at[RESPONSE])
            return self.fail(NO_TYPE, 0, self.message_at)
        if not is_text(self, RESPONSE, b"DATA", 4):
            return self._control()
        if self.slots.type[CHANNEL] != STRING:
            return self.needs(0 if self.slots.type[CHANNEL] == ABSENT else -1, CHANNEL)
        if is_text(self, CHANNEL, b"ORDERBOOK", 9):
            self.channel = BOOK_CHANNEL
        elif is_text(self, CHANNEL, b"TICKER", 6):
            self.channel = TICKER_CHANNEL
        elif is_text(self, CHANNEL, b"TRADE", 5):
            self.channel = TRADE_CHANNEL
        else:
            return self.ignore(CHANNEL)
        if self.slots.type[DATA] != OBJECT:
            return self.needs(0 if self.slots.type[DATA] == ABSENT else -1, DATA)
        self.clear()
        self.open_sides()
        if self.scan(data + 1, 2) is NULL:
            return self.fail(WRONG, DATA, data)
        self.message_at = whole
        self.message_to = whole_end
        if self._head():
            return MALFORMED
        if self.channel == BOOK_CHANNEL:
            return self._orderbook()
        return self._ticker() if self.channel == TICKER_CHANNEL else self._trade()

    cdef int _control(self) noexcept:
        if is_text(self, RESPONSE, b"ERROR", 5):
            return self.control_message(ERROR)
        if is_text(self, RESPONSE, b"SUBSCRIBED", 10) or is_text(self, RESPONSE, b"UNSUBSCRIBED", 12):
            return self.control_message(ACK)
        if is_text(self, RESPONSE, b"CONNECTED", 9):
            return self.control_message(STATUS)
        if is_text(self, RESPONSE, b"PONG", 4):
            return self.control_message(PONG)
        return self.ignore(RESPONSE)

    cdef int _head(self) noexcept:
        # read the symbol, in capitals; return 0 or MALFORMED
        cdef const char *p = self.slots.at[BASE]
        cdef Py_ssize_t size = self.slots.to[BASE] - p
        cdef Py_ssize_t i
        cdef char *copy
        if self.slots.type[QUOTE] != STRING:
            return self.needs(0 if self.slots.type[QUOTE] == ABSENT else -1, QUOTE)
        if not _equal(self.slots.at[QUOTE], self.slots.to[QUOTE] - self.slots.at[QUOTE], b"KRW", 3):
            return self.fail(WRONG, QUOTE, self.slots.at[QUOTE])
        if self.slots.type[BASE] != STRING or size == 0:
            return self.needs(0 if self.slots.type[BASE] == ABSENT else -1, BASE)
        self.symbol = p
        self.symbol_size = size
        for i in range(size):
            if c'a' <= p[i] <= c'z':
                break
        else:
            return 0
        copy = self.take_room(size)
        if copy is NULL:
            return self.fail(WRONG, BASE, p)
        for i in range(size):
            copy[i] = p[i] - 32 if c'a' <= p[i] <= c'z' else p[i]
        self.symbol = copy
        return 0

    cdef int _place(self) noexcept:
        # read the id, and the time in it; return 0 or MALFORMED
        cdef int64_t id = 0
        if self.needs(self.as_integer(ID, &id), ID):
            return MALFORMED
        if id <= 0 or id // COUNTER > LAST_MS:
            return self.fail(WRONG, ID, self.slots.at[ID])
        self.final_update_id = id
        self.exchange_ns = id // COUNTER * 1_000_000
        return 0

    cdef int _orderbook(self) noexcept:
        cdef int slot
        if self._place():
            return MALFORMED
        for slot in range(ASKS, BIDS + 1):
            if self.slots.type[slot] != LEVELS:
                return self.needs(0 if self.slots.type[slot] == ABSENT else -1, slot)
        self.snapshot = True
        self.first_update_id = 0
        return ORDERBOOK

    cdef int _trade(self) noexcept:
        cdef int maker = self.slots.type[SELLER_MAKER]
        if (
            self.needs(self.as_number(PRICE, &self.price), PRICE)
            or self.needs(self.as_number(QUANTITY, &self.size), QUANTITY)
            or self._place()
            or self.needs(1 if maker == TRUE or maker == FALSE else 0 if maker == ABSENT else -1, SELLER_MAKER)
        ):
            return MALFORMED
        self.trade_id = self.final_update_id
        self.sell = maker == FALSE
        self.snapshot = False
        return TRADE

    cdef int _ticker(self) noexcept:
        if self._place() or self.ticker_numbers(TICKER_SLOTS, TICKER_FIELDS, 10, LAST_PRICE):
            return MALFORMED
        self.day_volume = NAN
        self.suspended = False
        # as at Upbit, the volumes cover 24 hours
        self.window = UTC_DAY
        if isnan(self.ticker[OPEN]) and isnan(self.ticker[HIGH]) and isnan(self.ticker[LOW]):
            self.window = NO_WINDOW
        return TICKER

    cdef const char *levels(self, int slot, const char *p) noexcept:
        cdef const char *end = self.end
        cdef bint falling = slot == BIDS
        open_side(self, falling)
        p = skip_space(p + 1, end)
        if p < end and p[0] == c']':
            return p + 1
        while p < end and p[0] == c'{':
            p = self._level(p + 1, falling)
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

    cdef const char *_level(self, const char *p, bint falling) noexcept:
        # one level in any order of keys. p: behind its brace
        cdef double numbers[2]
        p = self.level_object(p, _level_field, numbers, 3)
        if p is not NULL and numbers[0] > 0 and numbers[1] > 0:
            add_level(self, falling, numbers[0], numbers[1])
        return p
