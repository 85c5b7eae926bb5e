"""Binance's frames in SBE (Simple Binary Encoding), beside those in JSON.

Source: `sbe/schemas/stream_1_0.xml` and "SBE Market Data Streams" of Binance's documentation. On one connection the
market data come in BINARY frames and the control frames in TEXT frames, which are JSON: the opcode decides. Where the
opcode is not known (recordings, kept updates) the first bytes decide: JSON has no control characters.

1. A frame is one message: a header of 8 bytes, a root block, groups of blocks, the symbol. All integers are little
   endian and not aligned. Bytes behind the symbol are legal.
2. Each block has its length on the wire. A later version of the schema appends fields, so a longer block is skipped to
   its own end. The fields that are read here exist since version 0: the version needs no check.
3. A price or a size is mantissa * 10^exponent, with one exponent of all prices and one of all sizes in a message.
4. A schema or a template that is not known is counted and ignored.
"""

from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport INT64_MIN, int8_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport strlen

from coinspace._ext.binance cimport BinanceParser
from coinspace._ext.number cimport Decimal, decimal_exact, decimal_round
from coinspace._ext.parser cimport (
    ASK, ASK_SIZE, BID, BID_SIZE, BINARY_FRAME, END, IGNORED, MALFORMED, ORDERBOOK, TOP, TRADE, UNKNOWN_FRAME,
    add_level,
)

cdef extern from "number.h" nogil:
    const double EXACT_POWERS[23]

cdef enum:
    SCHEMA = 1
    TRADES = 10000          # <symbol>@trade
    BEST = 10001            # <symbol>@bestBidAsk
    DEPTH_SNAPSHOT = 10002  # <symbol>@depth20
    DEPTH_DIFF = 10003      # <symbol>@depth

cdef enum:
    HEADER = 8          # blockLength, templateId, schemaId, version: uint16 each
    TRADES_BLOCK = 18   # eventTime, transactTime, two exponents
    TRADE_BLOCK = 25    # id, price, size, whether the buyer is the maker
    BEST_BLOCK = 50     # eventTime, id, two exponents, bid, its size, ask, its size
    SNAPSHOT_BLOCK = 18  # eventTime, id, two exponents
    DIFF_BLOCK = 26     # eventTime, first id, last id, two exponents
    LEVEL_BLOCK = 16    # price, size
    MOST_POWER = 22     # powers of ten up to 10^22 are exact doubles; no price or size needs more
    TEXT = 40

# why a frame was refused or ignored, as in REFUSALS
cdef enum:
    SHORT = 0
    BAD_SCHEMA = 1
    BAD_TEMPLATE = 2
    BAD_BLOCK = 3
    BAD_GROUP = 4
    BAD_EXPONENT = 5
    BAD_VALUE = 6
    BAD_PRICE = 7
    BAD_SYMBOL = 8
    N_REFUSALS = 9

REFUSALS = ("short", "schema", "template", "block", "group", "exponent", "value", "level", "symbol")
TEXTS = (
    "frame cut short",
    "",
    "",
    "block: expected at least {expected} bytes, was {found}",
    "group: expected blocks of at least {expected} bytes that the frame has, was {found}",
    "exponent: expected -22 to 22, was {found}",
    "a time, an id or a flag: unexpected value",
    "level: expected prices above 0 and sizes of at least 0",
    "symbol: expected a name in UTF-8",
)
cdef int64_t exact_integers = 9007199254740992
# 2255: a later time in µs would overflow as ns
cdef int64_t last_us = 9_000_000_000_000_000


cdef inline uint16_t u16(const char *p) noexcept nogil:
    return <uint16_t>(<uint8_t>p[0] | <uint8_t>p[1] << 8)


cdef inline uint32_t u32(const char *p) noexcept nogil:
    return u16(p) | <uint32_t>u16(p + 2) << 16


cdef inline int64_t i64(const char *p) noexcept nogil:
    return <int64_t>(u32(p) | <uint64_t>u32(p + 4) << 32)


cdef bint _round(int64_t mantissa, int exponent, double *value) noexcept:
    # a mantissa beyond 2^53, as its text would read
    cdef Decimal d
    cdef char text[TEXT]
    d.mantissa = <uint64_t>mantissa if mantissa >= 0 else 0 - <uint64_t>mantissa
    d.exponent = exponent
    d.negative = mantissa < 0
    d.inexact = 0
    if decimal_exact(&d, value):
        return True
    return decimal_round(&d, text, text + snprintf(text, TEXT, "%llde%d", <long long>mantissa, exponent), value)


cdef inline bint number(int64_t mantissa, int exponent, double *value) noexcept:
    """Compute mantissa * 10^exponent, rounded once. Returns: whether it is a number."""
    if mantissa == INT64_MIN:
        return False
    if not -exact_integers < mantissa < exact_integers:
        return _round(mantissa, exponent, value)
    if exponent <= 0:
        value[0] = <double>mantissa / EXACT_POWERS[-exponent]
    else:
        value[0] = <double>mantissa * EXACT_POWERS[exponent]
    return True


cdef bint is_binary(const char *p, const char *end) noexcept:
    """Return whether a frame is SBE: of its header at least the schema has control characters, JSON has none."""
    cdef const char *to = p + HEADER if end - p > HEADER else end
    while p < to:
        if <uint8_t>p[0] < 0x20 and p[0] != c'\t' and p[0] != c'\n' and p[0] != c'\r':
            return True
        p += 1
    return False


cdef bint _is_utf8(const char *p, Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    for i in range(size):
        if <uint8_t>p[i] >= 0x80:
            break
    else:
        return True
    try:
        PyUnicode_DecodeUTF8(p, size, NULL)
    except UnicodeDecodeError:
        return False
    return True


cdef class BinanceSbeParser(BinanceParser):
    """Parser of Binance's frames in both formats.

    Args: markets: symbol to market ("BTCUSDT": "BTC/USDT"), used by `decode`.
    """
    cdef:
        bint binary                # the present frame is SBE
        const char *at             # behind what has been read
        int price_power
        int size_power
        const char *trade_at       # next trade of the frame
        Py_ssize_t trade_step
        Py_ssize_t trades_left
        int64_t refused[N_REFUSALS]
        int64_t expected           # what the last refused frame should have had
        int64_t found
        char text[TEXT]            # of an ignored frame

    cdef int begin(self, const char *frame, Py_ssize_t size) except -1:
        self.trades_left = 0
        return BinanceParser.begin(self, frame, size)

    cdef int next(self) except -1:
        if not self.started:
            self.binary = self.opcode == BINARY_FRAME or (
                self.opcode == UNKNOWN_FRAME and is_binary(self.frame, self.end)
            )
        if not self.binary:
            return BinanceParser.next(self)
        if self.trades_left:
            self.kind = self._next_trade()
        elif self.started:
            self.kind = END
        else:
            self.started = True
            self.message_at = self.frame
            self.message_to = self.end
            self.kind = self._read()
        self.malformed += self.kind == MALFORMED
        return self.kind

    def refusals(self):
        """Return the numbers of refused and ignored binary frames by reason."""
        cdef int i
        return {REFUSALS[i]: self.refused[i] for i in range(N_REFUSALS)}

    @property
    def reason(self):
        """Why the last frame was malformed."""
        if not self.binary:
            return BinanceParser.reason.__get__(self)
        return TEXTS[self.fault].format(expected=self.expected, found=self.found)

    cdef int _refuse(self, int fault, const char *at, int64_t expected=0, int64_t found=0) noexcept:
        self.refused[fault] += 1
        self.expected = expected
        self.found = found
        return self.fail(fault, 0, at)

    cdef int _ignore(self, int fault, const char *text) noexcept:
        self.refused[fault] += 1
        self.detail = text
        self.detail_size = <Py_ssize_t>strlen(text)
        return IGNORED

    cdef int _read(self) noexcept:
        cdef const char *p = self.frame
        cdef int template, schema
        if self.end - p < HEADER:
            return self._refuse(SHORT, self.end)
        template = u16(p + 2)
        schema = u16(p + 4)
        if schema != SCHEMA:
            snprintf(self.text, TEXT, "schema %d", schema)
            return self._ignore(BAD_SCHEMA, self.text)
        if template == DEPTH_DIFF:
            return self._read_diff()
        if template == BEST:
            return self._read_best()
        if template == TRADES:
            return self._read_trades()
        if template == DEPTH_SNAPSHOT:
            return self._read_snapshot()
        snprintf(self.text, TEXT, "template %d", template)
        return self._ignore(BAD_TEMPLATE, self.text)

    # ---- parts of a message: 0 = good, else MALFORMED ----

    cdef int _root(self, Py_ssize_t least, Py_ssize_t time, Py_ssize_t powers) noexcept:
        # the root block: at least so many bytes, the place of its time and of its exponents
        cdef const char *root = self.frame + HEADER
        cdef Py_ssize_t size = u16(self.frame)
        cdef int64_t time_us
        if size < least:
            return self._refuse(BAD_BLOCK, self.frame, least, size)
        if self.end - root < size:
            return self._refuse(SHORT, self.end)
        self.at = root + size
        time_us = i64(root + time)
        if not 0 <= time_us <= last_us:
            return self._refuse(BAD_VALUE, root + time)
        self.exchange_ns = time_us * 1000
        self.price_power = <int8_t>root[powers]
        self.size_power = <int8_t>root[powers + 1]
        if not -MOST_POWER <= self.price_power <= MOST_POWER:
            return self._refuse(BAD_EXPONENT, root + powers, 0, self.price_power)
        if not -MOST_POWER <= self.size_power <= MOST_POWER:
            return self._refuse(BAD_EXPONENT, root + powers + 1, 0, self.size_power)
        return 0

    cdef int _id(self, Py_ssize_t place, int64_t *id) noexcept:
        id[0] = i64(self.frame + HEADER + place)
        return self._refuse(BAD_VALUE, self.frame + HEADER + place) if id[0] == INT64_MIN else 0

    cdef int _group(self, Py_ssize_t head, Py_ssize_t least, Py_ssize_t *step, Py_ssize_t *count) noexcept:
        # open a group: `at` moves to its first block
        if self.end - self.at < head:
            return self._refuse(SHORT, self.end)
        step[0] = u16(self.at)
        count[0] = u16(self.at + 2) if head == 4 else u32(self.at + 2)
        self.at += head
        # no block is read of an empty group, so that its block length does not matter
        if count[0] and (step[0] < least or count[0] > (self.end - self.at) // step[0]):
            return self._refuse(BAD_GROUP, self.at - head, least, step[0])
        return 0

    cdef int _name(self) noexcept:
        cdef Py_ssize_t size
        if self.end - self.at < 1:
            return self._refuse(SHORT, self.end)
        size = <uint8_t>self.at[0]
        self.at += 1
        if self.end - self.at < size:
            return self._refuse(SHORT, self.end)
        if size == 0 or not _is_utf8(self.at, size):
            return self._refuse(BAD_SYMBOL, self.at)
        self.symbol = self.at
        self.symbol_size = size
        return 0

    cdef int _value(self, const char *p, int power, double *value) noexcept:
        return 0 if number(i64(p), power, value) else self._refuse(BAD_VALUE, p)

    cdef int _one_side(self, bint falling, bint whole) noexcept:
        cdef Py_ssize_t step = 0
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t _i
        cdef const char *p
        cdef double price = 0
        cdef double size = 0
        if self._group(4, LEVEL_BLOCK, &step, &count):
            return MALFORMED
        p = self.at
        for _i in range(count):
            if self._value(p, self.price_power, &price) or self._value(p + 8, self.size_power, &size):
                return MALFORMED
            if price > 0 and (size > 0 or (size == 0 and not whole)):
                add_level(self, falling, price, size)
            elif not whole:
                # the book would be wrong with or without the level; a refused diff leaves a gap, which is repaired
                return self._refuse(BAD_PRICE, p)
            p += step
        self.at = p
        self.settle(falling)
        return 0

    cdef int _levels(self, bint whole) noexcept:
        self.open_sides()
        return self._one_side(True, whole) or self._one_side(False, whole) or self._name()

    # ---- messages ----

    cdef int _read_diff(self) noexcept:
        if (
            self._root(DIFF_BLOCK, 0, 24)
            or self._id(8, &self.first_update_id)
            or self._id(16, &self.final_update_id)
            or self._levels(False)
        ):
            return MALFORMED
        self.snapshot = False
        return ORDERBOOK

    cdef int _read_snapshot(self) noexcept:
        if self._root(SNAPSHOT_BLOCK, 0, 16) or self._id(8, &self.final_update_id) or self._levels(True):
            return MALFORMED
        self.first_update_id = 0
        self.snapshot = True
        return ORDERBOOK

    cdef int _read_best(self) noexcept:
        cdef const char *p = self.frame + HEADER + 18
        if (
            self._root(BEST_BLOCK, 0, 16)
            or self._id(8, &self.final_update_id)
            or self._value(p, self.price_power, &self.ticker[BID])
            or self._value(p + 8, self.size_power, &self.ticker[BID_SIZE])
            or self._value(p + 16, self.price_power, &self.ticker[ASK])
            or self._value(p + 24, self.size_power, &self.ticker[ASK_SIZE])
            or self._name()
        ):
            return MALFORMED
        return TOP

    cdef int _read_trades(self) noexcept:
        # the whole frame is checked first, so that a malformed one gives no trade at all
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t _i
        cdef double value
        cdef const char *p
        if self._root(TRADES_BLOCK, 8, 16) or self._group(6, TRADE_BLOCK, &self.trade_step, &count):
            return MALFORMED
        p = self.at
        for _i in range(count):
            if i64(p) == INT64_MIN or <uint8_t>p[24] > 1:
                return self._refuse(BAD_VALUE, p)
            if self._value(p + 8, self.price_power, &value) or self._value(p + 16, self.size_power, &value):
                return MALFORMED
            p += self.trade_step
        self.trade_at = self.at
        self.at = p
        if self._name():
            return MALFORMED
        if count == 0:
            self.detail = "no trades"
            self.detail_size = 9
            return IGNORED
        self.trades_left = count
        return self._next_trade()

    cdef int _next_trade(self) noexcept:
        cdef const char *p = self.trade_at
        self.trade_id = i64(p)
        number(i64(p + 8), self.price_power, &self.price)
        number(i64(p + 16), self.size_power, &self.size)
        self.sell = p[24] == 1
        self.snapshot = False
        self.trade_at += self.trade_step
        self.trades_left -= 1
        # `parse` goes on while a list is open
        self.list_end = self.end if self.trades_left else NULL
        return TRADE
