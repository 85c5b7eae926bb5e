"""Numbers of a frame: `number_read` for doubles, `integer_read` for ids and times."""

from libc.stdint cimport int64_t, uint64_t

cdef extern from "number.h" nogil:
    ctypedef struct Decimal:
        uint64_t mantissa
        int64_t exponent
        int negative
        int inexact
    enum:
        NUMBER_PAD      # bytes that number_short may read
        PLAIN_PAD       # bytes that number_plain may read
    const char *number_plain(const char *p) noexcept
    const char *number_short(const char *p, double *value) noexcept
    const char *number_split(const char *p, const char *end, Decimal *out) noexcept
    int decimal_exact(const Decimal *d, double *value) noexcept
    int digits_integer(const char *p, const char *end, int64_t *out) noexcept
    int decimal_integer(const Decimal *d, int64_t *out) noexcept

# rare numbers: more digits than the mantissa of a double, or powers beyond 10^22. Returns: 0 = not finite
cdef bint decimal_round(const Decimal *d, const char *p, const char *end, double *value) noexcept


cdef inline const char *number_read(const char *p, const char *end, double *value) noexcept:
    """Read the JSON number at p. Returns: its end, NULL when there is no number or it is not finite."""
    cdef Decimal d
    cdef const char *after
    if end - p >= NUMBER_PAD:
        after = number_short(p, value)
        if after is not NULL:
            return after
    after = number_split(p, end, &d)
    if after is NULL:
        return NULL
    if not decimal_exact(&d, value) and not decimal_round(&d, p, after, value):
        return NULL
    return after


cdef inline bint integer_read(const char *p, const char *end, int64_t *value) noexcept:
    """Read the text p to end as an integer in any spelling (`1.0`, `1E3`). Returns: whether it is an int64."""
    cdef Decimal d
    return digits_integer(p, end, value) or (number_split(p, end, &d) == end and decimal_integer(&d, value))
