"""Skipping over JSON text without building objects.

All functions return the place behind the text that they read, NULL when the text is not JSON. None reads at or after
`end`. Skipped text is checked as fully as text that is read (escapes, UTF-8, number grammar, finite numbers, at most
MAX_DEPTH containers), so a frame is accepted exactly when a JSON library accepts it.
"""

from libc.stdint cimport uint64_t

from coinspace._ext.number cimport Decimal, PLAIN_PAD, decimal_exact, decimal_round, number_plain, number_split

cdef enum:
    MAX_DEPTH = 1024    # nested containers; the usual limit of JSON libraries

cdef extern from "text.h" nogil:
    uint64_t load8(const char *p) noexcept
    const char *plain_end(const char *p, const char *end) noexcept
    uint64_t head8(const char *p, const char *end, long size) noexcept

# the closing quote of a string with escapes or characters beyond ASCII, which are checked; p is within the string
cdef const char *string_close_slow(const char *p, const char *end, bint *escaped) noexcept
# write the text p to end of a checked string to `out` without escapes. Returns: bytes written, at most end - p
cdef Py_ssize_t unescape(const char *p, const char *end, char *out) noexcept
# `at`: the offending byte when NULL is returned. depth: number of open containers
cdef const char *skip_container(const char *p, const char *end, int depth, const char **at) noexcept
cdef const char *skip_literal(const char *p, const char *end) noexcept


cdef inline const char *skip_space(const char *p, const char *end) noexcept:
    # one comparison when there is no space, which is the normal case
    while p < end and <unsigned char>p[0] <= c' ' and (
        p[0] == c' ' or p[0] == c'\n' or p[0] == c'\r' or p[0] == c'\t'
    ):
        p += 1
    return p


cdef inline const char *string_close(const char *p, const char *end, bint *escaped) noexcept:
    """Return the closing quote of the string whose first character is at p."""
    cdef const char *close = plain_end(p, end)
    escaped[0] = False
    if close < end and close[0] == c'"':
        return close
    return string_close_slow(close, end, escaped)


cdef inline const char *skip_number(const char *p, const char *end) noexcept:
    cdef Decimal d
    cdef double value
    cdef const char *after
    if end - p >= PLAIN_PAD:
        after = number_plain(p)
        if after is not NULL:
            return after
    after = number_split(p, end, &d)
    if after is NULL:
        return NULL
    # only a large power or hundreds of digits can overflow: then the value is computed
    if d.exponent > 280 and not decimal_exact(&d, &value) and not decimal_round(&d, p, after, &value):
        return NULL
    return after


cdef inline const char *skip_value(const char *p, const char *end, int depth, const char **at) noexcept:
    """Skip the value whose first character is at p."""
    cdef const char *after
    cdef bint escaped
    if p >= end:
        at[0] = end
        return NULL
    at[0] = p
    if p[0] == c'"':
        after = string_close(p + 1, end, &escaped)
        if after is NULL:
            return NULL
        return after + 1
    if c'0' <= p[0] <= c'9' or p[0] == c'-':
        return skip_number(p, end)
    if p[0] == c'{' or p[0] == c'[':
        return skip_container(p, end, depth, at)
    return skip_literal(p, end)
