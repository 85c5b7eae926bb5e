"""The part of the parsers that is the same for all exchanges: frames, lists, fields, conversions, access from Python.

An object is scanned once: the value of each key in the exchange's table goes into a slot, all other fields are skipped
and checked. When the kind is known, the needed slots are converted. Therefore any order of keys works.
"""

import numpy as np
import orjson

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport NAN, isnan
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from coinspace._ext.number cimport integer_read, NUMBER_PAD, PLAIN_PAD, number_read, number_short
from coinspace._ext.scan cimport head8, skip_number, skip_space, skip_value, string_close, unescape

# levels of the deepest book of any exchange
DEFAULT_CAPACITY = 5000
# largest capacity, more than any exchange has: the size of a side in bytes cannot overflow
MOST_LEVELS = 1 << 24
# 2^53: every integer below it is exact as a double
cdef double EXACT_INTEGERS = 9007199254740992.0
# of a time in ns since 1970 that fits into 64 bits
cdef int64_t LAST_YEAR = 2261
# symbols kept with their market; an exchange has under 4,000
NAMES_LIMIT = 8192

KIND_NAMES = ("end", "orderbook", "ticker", "trade", "top", "control", "ignored", "malformed")
CONTROL_NAMES = ("", "status", "ack", "error", "shutdown", "pong", "heartbeat")
WINDOWS = (None, "24h", "utc_day", "kst_day")


cdef inline bint _before(double a, double b, bint falling) noexcept:
    return a > b if falling else a < b


cdef Py_ssize_t sort_levels(
    double *prices, double *sizes, Py_ssize_t n, Py_ssize_t capacity, bint falling, double *scratch,
) noexcept:
    # bottom-up merge sort: stable, and at most n log n for any frame
    cdef double *price_from = prices
    cdef double *size_from = sizes
    cdef double *price_to = scratch
    cdef double *size_to = scratch + 2 * capacity
    cdef Py_ssize_t run = 1
    cdef Py_ssize_t left, right, left_end, right_end, out
    while run < n:
        out = 0
        while out < n:
            left = out
            left_end = right = min(left + run, n)
            right_end = min(right + run, n)
            while out < right_end:
                if left < left_end and (
                    right >= right_end or not _before(price_from[right], price_from[left], falling)
                ):
                    price_to[out] = price_from[left]
                    size_to[out] = size_from[left]
                    left += 1
                else:
                    price_to[out] = price_from[right]
                    size_to[out] = size_from[right]
                    right += 1
                out += 1
        price_from, price_to = price_to, price_from
        size_from, size_to = size_to, size_from
        run *= 2
    if price_from != prices:
        memcpy(prices, price_from, <size_t>n * sizeof(double))
        memcpy(sizes, size_from, <size_t>n * sizeof(double))
    return min(n, capacity)


cdef object _number(double value):
    return None if isnan(value) else value


cdef list _pairs(const double *prices, const double *sizes, Py_ssize_t n):
    cdef Py_ssize_t i
    return [[prices[i], sizes[i]] for i in range(n)]


cdef enum:
    FIRST_KEY = 3    # entries of the key table before the first key


cdef inline uint64_t _key_hash(uint64_t head, Py_ssize_t size, uint64_t factor) noexcept:
    return ((head ^ (<uint64_t>size << 56)) * factor) >> 54


cdef class Parser:
    """Base of the exchanges' parsers; see parser.pxd for the fields.

    Args: capacity: levels kept per side; further levels are dropped at the far end and counted.
    Raises: ValueError when capacity is outside 1 to MOST_LEVELS.
    """

    exchange = ""

    def __cinit__(self, Py_ssize_t capacity=DEFAULT_CAPACITY, *args, **kwargs):
        if not 1 <= capacity <= MOST_LEVELS:
            raise ValueError(f"capacity: expected 1 to {MOST_LEVELS} levels, was {capacity}")
        cdef int i
        self.capacity = capacity
        self.bid_price = <double*>PyMem_Malloc(<size_t>capacity * 12 * sizeof(double))
        if self.bid_price is NULL:
            raise MemoryError
        self.bid_size = self.bid_price + 2 * capacity
        self.ask_price = self.bid_price + 4 * capacity
        self.ask_size = self.bid_price + 6 * capacity
        self.scratch = self.bid_price + 8 * capacity
        self.day_volume = NAN
        self.names = {}
        # the entries for beginnings of objects are not keys
        for i in range(FIRST_KEY):
            self.keys[i].slot = -1

    def __dealloc__(self):
        PyBuffer_Release(&self.view)
        PyMem_Free(self.bid_price)
        PyMem_Free(self.room)

    cdef int name_slots(self, tuple names, dict keys) except -1:
        """Build the key table. Args: names: of slots, for `reason`. keys: each spelling of a key -> its slot."""
        cdef bytes key
        self.slot_names = names
        if len(keys) > 2 * SLOTS or len(names) > SLOTS:
            raise ValueError(f"keys: expected at most {2 * SLOTS} of {SLOTS} slots, was {len(keys)} of {len(names)}")
        self.n_keys = FIRST_KEY
        for key, slot in keys.items():
            if len(key) > KEY_SIZE:
                raise ValueError(f"key {key!r} is longer than {KEY_SIZE} bytes")
            self._add_key(PyBytes_AS_STRING(key), len(key), slot)
        # take the first odd factor that gives every key its own bucket: one probe per look-up
        self.key_factor = <uint64_t>0x9E3779B97F4A7C15ULL
        while not self._fill_buckets():
            self.key_factor = self.key_factor * <uint64_t>6364136223846793005ULL + 2
        return 0

    cdef Key *_add_key(self, const char *key, Py_ssize_t size, int slot) noexcept:
        cdef Key *new = &self.keys[self.n_keys]
        memset(new, 0, sizeof(Key))
        new.slot = slot
        new.look = NO_LOOK
        new.size = size + 3
        memset(new.mask, 0xff, <size_t>new.size)
        new.text[0] = c'"'
        memcpy(new.text + 1, key, <size_t>size)
        new.text[size + 1] = c'"'
        new.text[size + 2] = c':'
        self.n_keys += 1
        return new

    cdef bint _fill_buckets(self) noexcept:
        cdef uint64_t bucket
        cdef uint64_t head
        cdef Py_ssize_t size
        cdef int i
        memset(self.buckets, 0, sizeof(self.buckets))
        for i in range(FIRST_KEY, self.n_keys):
            size = self.keys[i].size - 3
            head = head8(self.keys[i].text + 1, self.keys[i].text + KEY_TEXT, size)
            bucket = _key_hash(head, size, self.key_factor)
            if self.buckets[bucket]:
                return False
            self.buckets[bucket] = <unsigned char>i
        return True

    cdef Key *_find_key(self, const char *key, const char *end, Py_ssize_t size) noexcept:
        """Return a key's entry in the table, a new one for an unknown key; keys[0] when there is no room."""
        cdef uint64_t bucket
        cdef Key *found
        if size > KEY_SIZE or size == 0:
            return self.keys
        bucket = _key_hash(head8(key, end, size), size, self.key_factor)
        if self.buckets[bucket] == 0:
            if self.n_keys == KEYS:
                return self.keys
            found = self._add_key(key, size, -1)
            self.buckets[bucket] = <unsigned char>(found - self.keys)
            return found
        found = &self.keys[self.buckets[bucket]]
        return found if found.size == size + 3 and memcmp(found.text + 1, key, <size_t>size) == 0 else self.keys

    cdef char *take_room(self, Py_ssize_t size) noexcept:
        """Return `size` bytes that are valid until the next `begin`, NULL when there is no memory."""
        cdef Py_ssize_t needed = 2 * (self.end - self.frame)
        if self.room_used == 0 and self.room_size < needed:
            PyMem_Free(self.room)
            self.room = <char*>PyMem_Malloc(<size_t>needed)
            self.room_size = needed if self.room is not NULL else 0
        if self.room_used + size > self.room_size:
            return NULL
        self.room_used += size
        return self.room + self.room_used - size

    def refusals(self):
        """Return the numbers of refused frames by reason, where a format has reasons of its own."""
        return {}

    # ---- one frame ----

    cdef int begin(self, const char *frame, Py_ssize_t size) except -1:
        """Take a frame. Borrowed: it must stay until its last message has been read."""
        self.frame = frame
        self.end = frame + size
        self.list_end = NULL
        self.started = False
        self.room_used = 0
        return 0

    cdef int next(self) except -1:
        """Read the next message. Returns: its kind, END when the frame has no more."""
        cdef const char *p
        cdef const char *after
        cdef const char *at
        if self.list_end is not NULL:
            self.kind = self._next_element()
        elif self.started:
            self.kind = END
        else:
            self.started = True
            p = skip_space(self.frame, self.end)
            if p < self.end and p[0] == c'{':
                self.kind = self.single(p)
            elif p < self.end and p[0] == c'[':
                # the whole list is checked first, so that a frame that is cut short gives no message at all
                after = skip_value(p, self.end, 0, &at)
                if after is NULL:
                    self.kind = self.fail(SYNTAX, 0, at)
                elif skip_space(after, self.end) != self.end:
                    self.kind = self.fail(TRAILING, 0, skip_space(after, self.end))
                else:
                    self.kind = self.open_list(p, after)
            else:
                after = skip_value(p, self.end, 0, &at)
                if after is NULL:
                    self.kind = self.fail(SYNTAX, 0, at)
                else:
                    self.kind = self.fail(NO_OBJECT, 0, p)
        self.malformed += self.kind == MALFORMED
        return self.kind

    cdef int single(self, const char *p) noexcept:
        """Read the object that is the whole frame."""
        cdef const char *after
        self.clear()
        after = self.scan(p + 1, 1)
        if after is NULL:
            return self._fail_syntax(p)
        self.message_at = p
        self.message_to = after
        after = skip_space(after, self.end)
        if after != self.end:
            return self.fail(TRAILING, 0, after)
        return self.message()

    cdef int open_list(self, const char *p, const char *end) noexcept:
        """Read the first message of a checked list that begins at p and ends before `end`; `next` reads the others."""
        p = skip_space(p + 1, end)
        if p[0] == c']':
            return self.fail(NO_MESSAGE, 0, p)
        self.cursor = p
        self.list_end = end
        return self._next_element()

    cdef int _next_element(self) noexcept:
        cdef const char *p = self.cursor
        cdef const char *after
        cdef const char *at = NULL
        if p is NULL:
            self.list_end = NULL
            return END
        self.clear()
        if p[0] == c'{':
            after = self.scan(p + 1, 2)
        else:
            after = skip_value(p, self.list_end, 1, &at)
        if after is NULL:
            self.cursor = NULL
            return self._fail_syntax(self.frame)
        self.message_at = p
        self.message_to = after
        after = skip_space(after, self.list_end)
        self.cursor = skip_space(after + 1, self.list_end) if after[0] == c',' else NULL
        return self.message() if p[0] == c'{' else self.fail(NO_OBJECT, 0, p)

    cdef int clear(self) noexcept:
        """Empty the slots before an object is scanned."""
        memset(self.slots.type, ABSENT, sizeof(self.slots.type))
        self.nulls = 0
        return 0

    cdef const char *scan(self, const char *p, int depth) noexcept:
        """Read an object's fields into slots. p: behind its brace. Returns: its end, NULL when it is not JSON."""
        cdef const char *end = self.end
        cdef const char *after
        cdef Key *last = &self.keys[depth if depth < FIRST_KEY else 0]
        self.depth = depth
        p = skip_space(p, end)
        if p < end and p[0] == c'}':
            return p + 1
        while True:
            # exchanges mostly write the same fields in the same order: try the fields that followed last time
            after = fields_expected(p, self.frame, end, &last, &self.slots)
            if after != p:
                if after[0] == c'}':
                    return after + 1
                p = after + 1
            p = self._field(p, depth, &last)
            if p is NULL:
                return NULL
            p = skip_space(p, end)
            if p >= end:
                return NULL
            if p[0] == c'}':
                return p + 1
            if p[0] != c',':
                return NULL
            p += 1

    cdef const char *key_at(self, const char *p, const char **key, Py_ssize_t *size, bint *escaped) noexcept:
        """Read a key in any form. Returns: the place behind its colon, NULL when it is not JSON.

        Args: key: gets its text, which is in `room` when it was escaped.
        """
        cdef const char *end = self.end
        cdef const char *close
        cdef char *copy
        p = skip_space(p, end)
        if p >= end or p[0] != c'"':
            return NULL
        key[0] = p + 1
        close = string_close(key[0], end, escaped)
        if close is NULL:
            return NULL
        size[0] = close - key[0]
        if escaped[0]:
            copy = self.take_room(size[0])
            if copy is NULL:
                return NULL
            size[0] = unescape(key[0], close, copy)
            key[0] = copy
        p = skip_space(close + 1, end)
        return p + 1 if p < end and p[0] == c':' else NULL

    cdef const char *_field(self, const char *p, int depth, Key **last) noexcept:
        # read one field in any form. Returns: the end of its value
        cdef const char *end = self.end
        cdef const char *text
        cdef const char *at
        cdef Py_ssize_t size
        cdef bint escaped
        cdef Key *key = last[0].next
        if key_follows(p, self.frame, end, key):
            p += key.size
        else:
            p = self.key_at(p, &text, &size, &escaped)
            if p is NULL:
                return NULL
            at = self.room + self.room_size
            key = self._find_key(text, at if escaped else end, size)
            # a key with escapes cannot be compared byte by byte
            last[0].next = key if key != self.keys and not escaped else NULL
        last[0] = key
        text = p
        p = skip_value(text, end, depth, &at) if key.slot < 0 else self.value(<int>key.slot, text, depth)
        if p is NULL:
            # no value at once: there may be space before it, although no exchange writes any
            p = skip_space(text, end)
            if p == text:
                return NULL
            text = p
            p = skip_value(text, end, depth, &at) if key.slot < 0 else self.value(<int>key.slot, text, depth)
            if p is NULL:
                return NULL
        # a look includes the byte behind the value
        if p < end and end - self.frame >= PLAIN_PAD:
            value_learn(&key.look, text, p, end, True)
        return p

    cdef const char *value(self, int slot, const char *p, int depth) noexcept:
        """Read the value at p into a slot. Returns: its end, NULL when it is not JSON."""
        cdef const char *end = self.end
        cdef const char *after
        cdef const char *at
        cdef char *copy
        cdef bint escaped
        if p >= end:
            return NULL
        cdef char c = p[0]
        if c == c'"':
            after = string_close(p + 1, end, &escaped)
            if after is NULL:
                return NULL
            self.slots.type[slot] = STRING
            self.slots.at[slot] = p + 1
            self.slots.to[slot] = after
            if escaped:
                copy = self.take_room(after - p)
                if copy is NULL:
                    return NULL
                self.slots.at[slot] = copy
                self.slots.to[slot] = copy + unescape(p + 1, after, copy)
            return after + 1
        if c == c'-' or c'0' <= c <= c'9':
            # a long number (an id) is converted to a double only when a double is needed
            after = number_short(p, &self.slots.number[slot]) if end - p >= NUMBER_PAD else NULL
            self.slots.type[slot] = NUMBER
            if after is NULL:
                after = skip_number(p, end)
                self.slots.type[slot] = LONG_NUMBER
        elif c == c'[' and self.level_slots >> slot & 1:
            after = self.levels(slot, p)
            self.slots.type[slot] = LEVELS
            if after is NULL:
                # not levels: other JSON is judged when the message is read
                after = skip_value(p, end, depth, &at)
                self.slots.type[slot] = ARRAY
        else:
            after = skip_value(p, end, depth, &at)
            self.nulls |= <uint64_t>(c == c'n') << slot
            self.slots.type[slot] = (
                OBJECT if c == c'{' else ARRAY if c == c'[' else TRUE if c == c't' else FALSE if c == c'f' else ABSENT
            )
        self.slots.at[slot] = p
        self.slots.to[slot] = after
        return after

    # ---- levels ----

    cdef int open_sides(self) noexcept:
        """Empty both sides before their levels are read."""
        self.n_bids = 0
        self.n_asks = 0
        self.unsorted = 0
        self.cut = 0
        return 0

    cdef const char *level_object(
        self, const char *p, LevelField field_of, double *values, int all,
    ) noexcept:
        """Read a level that is an object, in any order of keys.

        Args: p: behind its brace. values: get the numbers, by `field_of`. all: a bit for each of them.
        Returns: the place behind the object, NULL when it is no JSON or lacks a number.
        """
        cdef const char *end = self.end
        cdef const char *key
        cdef Py_ssize_t size
        cdef const char *at
        cdef const char *value
        cdef int seen = 0
        cdef int field
        cdef bint escaped
        while True:
            p = self.key_at(p, &key, &size, &escaped)
            if p is NULL:
                return NULL
            field = field_of(key, size)
            value = p = skip_space(p, end)
            if field >= 0:
                p = level_number(self, p, &values[field])
                # the last of two entries for one key counts, as in any JSON library
                seen = seen | 1 << field if p is not NULL else seen & ~(1 << field)
            if field < 0 or p is NULL:
                p = skip_value(value, end, self.depth + 2, &at)
                if p is NULL:
                    return NULL
            p = skip_space(p, end)
            if p >= end:
                return NULL
            if p[0] == c'}':
                return p + 1 if seen == all else NULL
            if p[0] != c',':
                return NULL
            p += 1

    cdef Py_ssize_t settle(self, bint falling) noexcept:
        """Sort a side if it came out of order. Returns: the number of its levels."""
        cdef Py_ssize_t n = self.n_bids if falling else self.n_asks
        cdef Py_ssize_t left = n
        cdef int side = 1 << falling
        if self.unsorted & side:
            if falling:
                left = sort_levels(self.bid_price, self.bid_size, n, self.capacity, True, self.scratch)
                self.n_bids = left
            else:
                left = sort_levels(self.ask_price, self.ask_size, n, self.capacity, False, self.scratch)
                self.n_asks = left
            self.levels_dropped += n - left
            if left < n:
                self.cut |= side
            self.unsorted &= ~side
        return left

    cdef const char *escaped_number(self, const char *p, double *out) noexcept:
        # the string is not a plain number, but it may be a number with escaped characters
        cdef bint escaped
        cdef const char *close = string_close(p + 1, self.end, &escaped)
        cdef const char *to
        cdef char *copy
        if close is NULL or not escaped:
            return NULL
        copy = self.take_room(close - p)
        if copy is NULL:
            return NULL
        to = copy + unescape(p + 1, close, copy)
        return close + 1 if number_read(copy, to, out) == to else NULL

    # ---- failures ----

    cdef int fail(self, int fault, int slot, const char *at) noexcept:
        self.fault = fault
        self.fault_slot = slot
        self.fault_at = at
        return MALFORMED

    cdef int _fail_syntax(self, const char *p) noexcept:
        # the fast path does not report the place of the error: scan again to find it
        cdef const char *at = NULL
        cdef const char *after = skip_value(p, self.end, 0, &at)
        return self.fail(SYNTAX, 0, at if after is NULL else after)

    cdef int needs(self, int state, int slot) noexcept:
        """Convert the result of `as_…` for a needed slot to 0 or MALFORMED."""
        if state > 0:
            return 0
        return self.fail(MISSING if state == 0 else WRONG, slot, self.message_at if state == 0 else self.slots.at[slot])

    # ---- slots to values: 1 = good, 0 = absent, -1 = another value ----

    cdef int as_number(self, int slot, double *out) noexcept:
        cdef int type = self.slots.type[slot]
        if type == NUMBER:
            out[0] = self.slots.number[slot]
            return 1
        cdef const char *at = self.slots.at[slot]
        if type == STRING or type == LONG_NUMBER:
            # bytes behind a text may be read within the frame, but not in `room`
            if at >= self.frame and self.end - at >= NUMBER_PAD and number_short(at, out) == self.slots.to[slot]:
                return 1
            return 1 if number_read(at, self.slots.to[slot], out) == self.slots.to[slot] else -1
        return 0 if type == ABSENT else -1

    cdef int ticker_numbers(self, const int *slots, const int *fields, int n, int needed) noexcept:
        """Read numbers of a ticker; absent ones are NAN. Returns: 0, or MALFORMED.

        Args: slots, fields: n pairs of a field of the frame and one of `ticker`. needed: a slot.
        """
        cdef int i
        for i in range(TICKER_SIZE):
            self.ticker[i] = NAN
        for i in range(n):
            if self.as_number(slots[i], &self.ticker[fields[i]]) < 0:
                return self.fail(WRONG, slots[i], self.slots.at[slots[i]])
        return self.needs(0, needed) if self.slots.type[needed] == ABSENT else 0

    cdef int as_integer(self, int slot, int64_t *out) noexcept:
        cdef int type = self.slots.type[slot]
        cdef double whole
        if type == NUMBER:
            # at most 15 digits: an integral double has exactly the value of the text
            whole = self.slots.number[slot]
            if whole < EXACT_INTEGERS and whole == <double><int64_t>whole:
                out[0] = <int64_t>whole
                return 1
        if type == NUMBER or type == STRING or type == LONG_NUMBER:
            return 1 if integer_read(self.slots.at[slot], self.slots.to[slot], out) else -1
        return 0 if type == ABSENT else -1

    cdef int as_time(self, int slot, int64_t *out) noexcept:
        """Read a UNIX time of any unit as ns. Its magnitude shows the unit, unambiguously from 1973 on."""
        cdef int64_t time = 0
        cdef int state = self.as_integer(slot, &time)
        out[0] = 0
        if state <= 0:
            return state
        if time < 0:
            return -1
        if time < <int64_t>100_000_000_000:
            # seconds; more than 9.2e9 s would overflow
            if time > <int64_t>9_000_000_000:
                return -1
            out[0] = time * 1_000_000_000
        elif time < <int64_t>100_000_000_000_000:
            if time > <int64_t>9_000_000_000_000:
                return -1
            out[0] = time * 1_000_000
        elif time < <int64_t>100_000_000_000_000_000:
            if time > <int64_t>9_000_000_000_000_000:
                return -1
            out[0] = time * 1_000
        else:
            out[0] = time
        return 1

    cdef int as_instant(self, int slot, int64_t *out) noexcept:
        """Read an RFC 3339 text in UTC as ns. A time before 1970, such as the year 1, is none (0)."""
        cdef const char *p = self.slots.at[slot]
        cdef Py_ssize_t size = self.slots.to[slot] - p
        cdef int64_t parts[6]
        cdef int64_t fraction = 0
        cdef int64_t scale = 1_000_000_000
        cdef int64_t days
        cdef Py_ssize_t i
        cdef int part = 0
        out[0] = 0
        if self.slots.type[slot] != STRING:
            return 0 if self.slots.type[slot] == ABSENT else -1
        # 2026-06-19T16:43:34.123456Z
        if size < 20 or p[size - 1] != c'Z' or p[4] != c'-' or p[7] != c'-' or p[10] != c'T':
            return -1
        if p[13] != c':' or p[16] != c':':
            return -1
        parts[0] = 0
        for i in range(19):
            if i == 4 or i == 7 or i == 10 or i == 13 or i == 16:
                part += 1
                parts[part] = 0
                continue
            if not c'0' <= p[i] <= c'9':
                return -1
            parts[part] = parts[part] * 10 + p[i] - c'0'
        if size > 20 and (p[19] != c'.' or size == 21):
            return -1
        for i in range(20, size - 1):
            if not c'0' <= p[i] <= c'9':
                return -1
            scale //= 10
            fraction += (p[i] - c'0') * scale
        if not 1 <= parts[1] <= 12 or not 1 <= parts[2] <= 31 or parts[3] > 23 or parts[4] > 59 or parts[5] > 60:
            return -1
        if parts[0] < 1970 or parts[0] > LAST_YEAR:
            return 1
        # days since 1970 of the civil calendar, with years that begin in March
        parts[0] -= parts[1] <= 2
        days = (
            parts[0] * 365 + parts[0] // 4 - parts[0] // 100 + parts[0] // 400
            + (153 * (parts[1] + (-3 if parts[1] > 2 else 9)) + 2) // 5 + parts[2] - 1 - 719468
        )
        out[0] = ((days * 24 + parts[3]) * 60 + parts[4]) * 60 + parts[5]
        out[0] = out[0] * 1_000_000_000 + fraction
        return 1

    # ---- overridden by each exchange ----

    cdef int message(self) noexcept:
        """Make a message from the slots of one object. Returns: its kind."""
        return self.fail(NO_TYPE, 0, self.message_at)

    cdef const char *levels(self, int slot, const char *p) noexcept:
        """Read an array of levels into the sides. Returns: its end, NULL for another array."""
        return NULL

    cdef object market(self, str symbol):
        """Return the market of a symbol, None when it is unknown."""
        return None

    cdef int control_message(self, int control) noexcept:
        self.control = control
        self.detail = self.message_at
        self.detail_size = self.message_to - self.message_at
        return CONTROL

    cdef int ignore(self, int slot) noexcept:
        self.detail = self.slots.at[slot]
        self.detail_size = self.slots.to[slot] - self.slots.at[slot]
        return IGNORED

    # ---- access from Python ----

    cdef int hold(self, frame) except -1:
        # keep the frame until the next one, so that properties never read freed memory after `parse`
        if self.view.buf is not NULL:
            PyBuffer_Release(&self.view)
            self.view.buf = NULL
        if type(frame) is bytes:
            self.held = <bytes>frame
            return self.begin(PyBytes_AS_STRING(self.held), PyBytes_GET_SIZE(self.held))
        self.held = None
        PyObject_GetBuffer(frame, &self.view, PyBUF_SIMPLE)
        return self.begin(<const char*>self.view.buf, self.view.len)

    def parse(self, frame not None):
        """Read a whole frame (any bytes-like object).

        Returns: the number of messages; the fields have the values of the last one.
        """
        cdef int n = 0
        cdef int last = END
        self.hold(frame)
        while self.next() != END:
            last = self.kind
            n += 1
            if self.list_end is NULL:
                break
        self.kind = last
        return n

    def decode(self, frame not None):
        """Return the messages of a frame as dictionaries, as `coinspace decode` prints them."""
        cdef list messages = []
        self.hold(frame)
        while self.next() != END:
            messages.append(self._as_dict())
        return messages

    @property
    def symbol_name(self):
        """The exchange's spelling of the market, None when the frame has no symbol; a copy."""
        return self._names()[0]

    @property
    def bids(self):
        """float64[2, n_bids]: row 0 prices, row 1 sizes, best first; a copy."""
        return self._side(self.bid_price, self.bid_size, self.n_bids)

    @property
    def asks(self):
        """float64[2, n_asks]: row 0 prices, row 1 sizes, best first; a copy."""
        return self._side(self.ask_price, self.ask_size, self.n_asks)

    cdef object _side(self, const double *prices, const double *sizes, Py_ssize_t n):
        side = np.empty((2, n))
        cdef double[:, ::1] view = side
        if n:
            memcpy(&view[0, 0], prices, <size_t>n * sizeof(double))
            memcpy(&view[1, 0], sizes, <size_t>n * sizeof(double))
        return side

    @property
    def reason(self):
        """Why the last frame was malformed."""
        cdef str name = self.slot_names[self.fault_slot] if self.slot_names else ""
        if self.fault == SYNTAX:
            if self.frame == self.end:
                return "empty frame"
            return "frame cut short" if self.fault_at >= self.end else "expected JSON"
        if self.fault == TRAILING:
            return "expected the end of the frame behind the message"
        if self.fault == NO_OBJECT:
            return "expected an object or a list of objects"
        if self.fault == NO_MESSAGE:
            return "expected messages, was an empty list"
        if self.fault == MISSING:
            return f"{name}: missing"
        if self.fault == WRONG:
            return f"{name}: unexpected value"
        if self.fault == LEGACY:
            return "expected a frame of the current socket, was one of the legacy socket"
        if self.fault == BAD_LEVEL:
            return f"{name}: expected prices above 0 and sizes of at least 0"
        return "expected a field that shows the kind of message, found none"

    @property
    def offset(self):
        """Index of the byte of the last frame at which reading failed."""
        if self.frame <= self.fault_at <= self.end:
            return self.fault_at - self.frame
        return self.message_at - self.frame

    cdef tuple _names(self):
        # symbol and market as texts, kept because the same few symbols come again and again
        if self.symbol_size == 0:
            return None, None
        cdef bytes key = PyBytes_FromStringAndSize(self.symbol, self.symbol_size)
        found = self.names.get(key)
        if found is None:
            symbol = key.decode()
            found = symbol, self.market(symbol)
            if len(self.names) < NAMES_LIMIT:
                self.names[key] = found
        return found

    cdef dict _as_dict(self):
        cdef int kind = self.kind
        cdef dict out = {"kind": KIND_NAMES[kind], "exchange": self.exchange}
        cdef bytes text
        if kind == MALFORMED:
            out["reason"] = self.reason
            out["offset"] = self.offset
            return out
        if kind == CONTROL:
            out["name"] = CONTROL_NAMES[self.control]
            out["detail"] = self._detail()
            return out
        if kind == IGNORED:
            text = PyBytes_FromStringAndSize(self.detail, self.detail_size)
            out["type"] = text.decode()
            return out
        symbol, market = self._names()
        out["market"] = market
        out["symbol"] = symbol
        if kind == ORDERBOOK:
            out["snapshot"] = self.snapshot
            if self.flawed:
                out["flawed"] = True
        out["exchange_ns"] = self.exchange_ns or None
        if kind == ORDERBOOK:
            self._book_dict(out)
        elif kind == TRADE:
            out["price"] = self.price
            out["size"] = self.size
            out["side"] = "sell" if self.sell else "buy"
            out["trade_id"] = self.trade_id
            out["snapshot"] = self.snapshot
        elif kind == TICKER:
            self._ticker_dict(out)
        else:
            out["update_id"] = self.final_update_id
            out["bid"] = self.ticker[BID]
            out["bid_size"] = self.ticker[BID_SIZE]
            out["ask"] = self.ticker[ASK]
            out["ask_size"] = self.ticker[ASK_SIZE]
        return out

    cdef int _book_dict(self, dict out) except -1:
        if self.has_ids:
            out["first_update_id"] = None if self.snapshot else self.first_update_id
            out["final_update_id"] = self.final_update_id
        out["bids"] = _pairs(self.bid_price, self.bid_size, self.n_bids)
        out["asks"] = _pairs(self.ask_price, self.ask_size, self.n_asks)
        return 0

    cdef int _ticker_dict(self, dict out) except -1:
        out["last"] = _number(self.ticker[LAST])
        out["open"] = _number(self.ticker[OPEN])
        out["high"] = _number(self.ticker[HIGH])
        out["low"] = _number(self.ticker[LOW])
        out["volume"] = _number(self.ticker[VOLUME])
        out["quote_volume"] = _number(self.ticker[QUOTE_VOLUME])
        out["change"] = _number(self.ticker[CHANGE])
        out["window"] = WINDOWS[self.window]
        out["bid"] = _number(self.ticker[BID])
        out["ask"] = _number(self.ticker[ASK])
        return 0

    cdef object _detail(self):
        detail = orjson.loads(PyBytes_FromStringAndSize(self.detail, self.detail_size))
        error = detail.get("error")
        if self.control == ERROR and isinstance(error, dict):
            # make a wrapped error like a flat one; fields beside the error, such as an id, stay
            detail = {**error, **{key: value for key, value in detail.items() if key != "error"}}
        return detail
