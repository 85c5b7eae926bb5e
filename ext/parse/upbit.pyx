"""Upbit WebSocket frames (https://docs.upbit.com/kr/reference/websocket-guide): DEFAULT, SIMPLE and their lists.

1. Every order book is a whole book; unit i has the i-th best ask and the i-th best bid.
2. Thin sides are padded with price 0 and size 0: levels with price <= 0 or size <= 0 are dropped, per side.
3. Numbers come in any spelling (`137002000`, `109950000.0`, `1.16539E8`, `6E-8`).
4. `sequential_id` exceeds 2^53, so it is read as an exact int64.
5. `timestamp` of a book is the time of its last change; `trade_timestamp` is the time of the trade. Both are ms.
6. Open, high, low and change of a ticker count from 00:00 UTC, its volumes over 24 h. `day_volume` counts from 00:00
   too, so two tickers of a day show how much was traded in between.
7. The list formats wrap one or more messages in an array.

    {"type":"orderbook","code":"KRW-BTC","timestamp":1790134742106,"total_ask_size":…,"total_bid_size":…,
     "orderbook_units":[{"ask_price":1.16539E8,"bid_price":1.16538E8,"ask_size":0.02054761,"bid_size":0.08120946},…],
     "stream_type":"SNAPSHOT","level":0}
"""

from libc.math cimport NAN, isnan
from libc.string cimport memcmp

from coinspace._ext.parser cimport (
    ABSENT, CHANGE, ERROR, HIGH, LEVEL_PAD, LAST, LEVELS, LOW, MALFORMED, NO_TYPE, NO_WINDOW, OBJECT, OPEN, ORDERBOOK,
    STATUS, Side, STRING, TICKER, TICKER_SIZE, TINY, TRADE, TRUE, UTC_DAY, WRONG, add_level, is_text, padded,
    unit_default, unit_simple, units_default, units_simple,
)
from coinspace._ext.scan cimport skip_space

# slot -> name in DEFAULT, name in SIMPLE
FIELDS = {
    TYPE: ("type", "ty"),
    CODE: ("code", "cd"),
    TIMESTAMP: ("timestamp", "tms"),
    STREAM_TYPE: ("stream_type", "st"),
    UNITS: ("orderbook_units", "obu"),
    TRADE_PRICE: ("trade_price", "tp"),
    TRADE_VOLUME: ("trade_volume", "tv"),
    ASK_BID: ("ask_bid", "ab"),
    SEQUENTIAL_ID: ("sequential_id", "sid"),
    TRADE_TIMESTAMP: ("trade_timestamp", "ttms"),
    OPENING_PRICE: ("opening_price", "op"),
    HIGH_PRICE: ("high_price", "hp"),
    LOW_PRICE: ("low_price", "lp"),
    CHANGE_PRICE: ("signed_change_price", "scp"),
    VOLUME_24H: ("acc_trade_volume_24h", "atv24h"),
    PRICE_24H: ("acc_trade_price_24h", "atp24h"),
    STATUS_TEXT: ("status",),
    ERROR_OBJECT: ("error",),
    METHOD: ("method", "mthd"),
    RESULT_MESSAGE: ("resmsg",),
    CONTENT: ("content",),
    VOLUME_DAY: ("acc_trade_volume", "atv"),
    MARKET_STATE: ("market_state", "ms"),
    SUSPENDED: ("is_trading_suspended", "its"),
    DELISTING_DATE: ("delisting_date", "dd"),
}

# slot of each ticker field from LAST to CHANGE; Upbit sends no others
cdef int TICKER_SLOTS[7]
TICKER_SLOTS[:] = [TRADE_PRICE, OPENING_PRICE, HIGH_PRICE, LOW_PRICE, VOLUME_24H, PRICE_24H, CHANGE_PRICE]


cdef int _day(const char *text, const char *end) noexcept:
    """Return the day at the beginning of a text, 20261224 for 2026-12-24; 0 for another text."""
    cdef int i
    cdef int number = 0
    if end - text < 10 or text[4] != c'-' or text[7] != c'-':
        return 0
    for i in range(10):
        if i == 4 or i == 7:
            continue
        if not c'0' <= text[i] <= c'9':
            return 0
        number = 10 * number + (text[i] - c'0')
    return number


cdef int _unit_field(const char *key, Py_ssize_t size) noexcept:
    """Return 0 for the ask price, 1 bid price, 2 ask size, 3 bid size, -1 for another key."""
    if size == 2:
        if key[1] == c'p':
            return 0 if key[0] == c'a' else 1 if key[0] == c'b' else -1
        if key[1] == c's':
            return 2 if key[0] == c'a' else 3 if key[0] == c'b' else -1
        return -1
    if size == 9 and memcmp(key, b"ask_price", 9) == 0:
        return 0
    if size == 9 and memcmp(key, b"bid_price", 9) == 0:
        return 1
    if size == 8 and memcmp(key, b"ask_size", 8) == 0:
        return 2
    if size == 8 and memcmp(key, b"bid_size", 8) == 0:
        return 3
    return -1


cdef class UpbitParser(Parser):
    """Parser of Upbit's frames."""

    exchange = "upbit"

    def __init__(self, *args, **kwargs):
        self.name_slots(
            tuple(names[0] for names in FIELDS.values()),
            {name.encode(): slot for slot, names in FIELDS.items() for name in names},
        )
        self.level_slots = 1 << UNITS
        self.day = UTC_DAY

    cdef object market(self, str symbol):
        quote, dash, base = symbol.partition("-")
        return f"{base}/{quote}" if dash else None

    cdef int message(self) noexcept:
        if self.slots.type[TYPE] != STRING:
            if self.slots.type[TYPE] != ABSENT:
                return self.fail(WRONG, TYPE, self.slots.at[TYPE])
            return self.other()
        if is_text(self, TYPE, b"orderbook", 9):
            return self._orderbook()
        if is_text(self, TYPE, b"trade", 5):
            return self._trade()
        if is_text(self, TYPE, b"ticker", 6):
            return self._ticker()
        return self.ignore(TYPE)

    cdef int other(self) noexcept:
        if self.slots.type[ERROR_OBJECT] == OBJECT:
            return self.control_message(ERROR)
        if self.slots.type[STATUS_TEXT] == STRING:
            return self.control_message(STATUS)
        if self.slots.type[METHOD] == STRING:
            return self.ignore(METHOD)
        return self.fail(NO_TYPE, 0, self.message_at)

    cdef int _head(self) noexcept:
        # read the symbol; return 0 or MALFORMED
        cdef int state = 1 if self.slots.type[CODE] == STRING else 0 if self.slots.type[CODE] == ABSENT else -1
        self.symbol = self.slots.at[CODE]
        self.symbol_size = self.slots.to[CODE] - self.slots.at[CODE]
        if state > 0 and self.symbol_size == 0:
            state = -1
        return self.needs(state, CODE)

    cdef int _orderbook(self) noexcept:
        cdef int state = self.as_time(TIMESTAMP, &self.exchange_ns)
        if self._head():
            return MALFORMED
        if state < 0:
            return self.fail(WRONG, TIMESTAMP, self.slots.at[TIMESTAMP])
        if self.slots.type[UNITS] != LEVELS:
            return self.needs(0 if self.slots.type[UNITS] == ABSENT else -1, UNITS)
        self.snapshot = True
        self.first_update_id = 0
        self.final_update_id = 0
        return ORDERBOOK

    cdef int _trade(self) noexcept:
        if (
            self._head()
            or self.needs(self.as_number(TRADE_PRICE, &self.price), TRADE_PRICE)
            or self.needs(self.as_number(TRADE_VOLUME, &self.size), TRADE_VOLUME)
            or self.needs(self.as_integer(SEQUENTIAL_ID, &self.trade_id), SEQUENTIAL_ID)
            or self.needs(self.as_time(TRADE_TIMESTAMP, &self.exchange_ns), TRADE_TIMESTAMP)
        ):
            return MALFORMED
        self.sell = is_text(self, ASK_BID, b"ASK", 3)
        if not self.sell and not is_text(self, ASK_BID, b"BID", 3):
            return self.needs(0 if self.slots.type[ASK_BID] == ABSENT else -1, ASK_BID)
        self.snapshot = is_text(self, STREAM_TYPE, b"SNAPSHOT", 8)
        return TRADE

    cdef int _ticker(self) noexcept:
        cdef int i
        cdef int slot
        if self._head() or self.needs(self.as_number(TRADE_PRICE, &self.ticker[LAST]), TRADE_PRICE):
            return MALFORMED
        if self.as_time(TIMESTAMP, &self.exchange_ns) < 0:
            return self.fail(WRONG, TIMESTAMP, self.slots.at[TIMESTAMP])
        for i in range(1, TICKER_SIZE):
            self.ticker[i] = NAN
        # two fields show a suspension; the exchange may remove one of them
        self.suspended = self.slots.type[SUSPENDED] == TRUE or (
            self.slots.type[MARKET_STATE] == STRING and not is_text(self, MARKET_STATE, b"ACTIVE", 6)
        )
        # null and an empty text mean none
        self.delisting = 0
        if self.slots.type[DELISTING_DATE] == STRING:
            self.delisting = _day(self.slots.at[DELISTING_DATE], self.slots.to[DELISTING_DATE])
        self.day_volume = NAN
        if self.as_number(VOLUME_DAY, &self.day_volume) < 0:
            return self.fail(WRONG, VOLUME_DAY, self.slots.at[VOLUME_DAY])
        for i in range(OPEN, CHANGE + 1):
            slot = TICKER_SLOTS[i]
            if self.as_number(slot, &self.ticker[i]) < 0:
                return self.fail(WRONG, slot, self.slots.at[slot])
        self.window = self.day
        if (
            isnan(self.ticker[OPEN]) and isnan(self.ticker[HIGH])
            and isnan(self.ticker[LOW]) and isnan(self.ticker[CHANGE])
        ):
            self.window = NO_WINDOW
        return TICKER

    cdef const char *levels(self, int slot, const char *p) noexcept:
        cdef const char *end = self.end
        cdef bint unread = False
        self.open_sides()
        p = skip_space(p + 1, end)
        if p < end and p[0] == c']':
            return p + 1
        while p < end and p[0] == c'{':
            p = self._units(p, &unread)
            if unread:
                # one unit in any form, then the template again
                self.template_misses += 1
                p = self._unit(p + 1)
                if p is NULL:
                    return NULL
            p = skip_space(p, end)
            if p >= end:
                return NULL
            if p[0] == c']':
                if self.unsorted:
                    self.settle(True)
                    self.settle(False)
                return p + 1
            if p[0] != c',':
                return NULL
            p = skip_space(p + 1, end)
        return NULL

    cdef const char *_units(self, const char *p, bint *unread) noexcept:
        # units as Upbit writes them today. Returns: the place behind the last one; p and `unread` when the first has
        # another form
        cdef const char *end = self.end
        cdef const char *at
        cdef const char *after
        cdef char copy[2 * LEVEL_PAD]
        cdef double values[4]
        cdef bint simple = end - p > 3 and p[3] == c'p'
        cdef Side asks = Side(self.ask_price, self.ask_size, self.n_asks, self.capacity, TINY)
        cdef Side bids = Side(self.bid_price, self.bid_size, self.n_bids, self.capacity, TINY)
        after = units_simple(p, end, &asks, &bids) if simple else units_default(p, end, &asks, &bids)
        self.n_asks = asks.n
        self.n_bids = bids.n
        unread[0] = False
        if after != p:
            return after
        at = padded(p, end, copy)
        after = unit_simple(at, values) if simple else unit_default(at, values)
        if after is NULL:
            unread[0] = True
            return p
        self._add_unit(values)
        return p + (after - at)

    cdef int _add_unit(self, const double *values) noexcept:
        if values[0] > 0 and values[2] > 0:
            add_level(self, False, values[0], values[2])
        if values[1] > 0 and values[3] > 0:
            add_level(self, True, values[1], values[3])
        return 0

    cdef const char *_unit(self, const char *p) noexcept:
        # one unit in any order of keys. p: behind its brace
        cdef double values[4]
        p = self.level_object(p, _unit_field, values, 15)
        if p is not NULL:
            self._add_unit(values)
        return p
