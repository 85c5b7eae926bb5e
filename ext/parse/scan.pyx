"""Skipping over JSON text, the rare parts: escapes, UTF-8, containers."""

from libc.string cimport memcmp


cdef inline int _hex(const char *p) noexcept:
    """Return four hex digits as a number, -1 for other characters."""
    cdef int value = 0
    cdef int i
    cdef int c
    for i in range(4):
        c = p[i]
        if c'0' <= c <= c'9':
            c -= c'0'
        elif c'a' <= c <= c'f':
            c -= c'a' - 10
        elif c'A' <= c <= c'F':
            c -= c'A' - 10
        else:
            return -1
        value = value * 16 + c
    return value


cdef const char *_escape_end(const char *p, const char *end) noexcept:
    # p: at the backslash. A surrogate must be the first half of a pair
    cdef int code
    if end - p < 2:
        return NULL
    cdef char c = p[1]
    if c == c'u':
        if end - p < 6:
            return NULL
        code = _hex(p + 2)
        if code < 0 or 0xDC00 <= code < 0xE000:
            return NULL
        if code < 0xD800 or code >= 0xE000:
            return p + 6
        if end - p < 12 or p[6] != c'\\' or p[7] != c'u':
            return NULL
        code = _hex(p + 8)
        return p + 12 if 0xDC00 <= code < 0xE000 else NULL
    if (
        c == c'"' or c == c'\\' or c == c'/' or c == c'b' or c == c'f' or c == c'n' or c == c'r' or c == c't'
    ):
        return p + 2
    return NULL


cdef const char *_utf8_end(const char *p, const char *end) noexcept:
    # one character of two to four bytes: shortest form, not a surrogate, at most U+10FFFF
    cdef unsigned int lead = <unsigned char>p[0]
    cdef unsigned int second
    cdef int size = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
    cdef int i
    if lead < 0xC2 or lead > 0xF4 or end - p < size:
        return NULL
    for i in range(1, size):
        if (<unsigned char>p[i] & 0xC0) != 0x80:
            return NULL
    second = <unsigned char>p[1]
    if (
        (lead == 0xE0 and second < 0xA0) or (lead == 0xED and second >= 0xA0)
        or (lead == 0xF0 and second < 0x90) or (lead == 0xF4 and second >= 0x90)
    ):
        return NULL
    return p + size


cdef const char *string_close_slow(const char *p, const char *end, bint *escaped) noexcept:
    while p < end:
        if p[0] == c'"':
            return p
        if p[0] == c'\\':
            escaped[0] = True
            p = _escape_end(p, end)
        elif <unsigned char>p[0] < 0x20:
            return NULL
        else:
            p = _utf8_end(p, end)
        if p is NULL:
            return NULL
        p = plain_end(p, end)
    return NULL


cdef Py_ssize_t _encode(unsigned int code, char *out) noexcept:
    if code < 0x80:
        out[0] = <char>code
        return 1
    if code < 0x800:
        out[0] = <char>(0xC0 | (code >> 6))
        out[1] = <char>(0x80 | (code & 0x3F))
        return 2
    if code < 0x10000:
        out[0] = <char>(0xE0 | (code >> 12))
        out[1] = <char>(0x80 | ((code >> 6) & 0x3F))
        out[2] = <char>(0x80 | (code & 0x3F))
        return 3
    out[0] = <char>(0xF0 | (code >> 18))
    out[1] = <char>(0x80 | ((code >> 12) & 0x3F))
    out[2] = <char>(0x80 | ((code >> 6) & 0x3F))
    out[3] = <char>(0x80 | (code & 0x3F))
    return 4


cdef Py_ssize_t unescape(const char *p, const char *end, char *out) noexcept:
    cdef char *begin = out
    cdef unsigned int code
    cdef char c
    while p < end:
        if p[0] != c'\\':
            out[0] = p[0]
            out += 1
            p += 1
            continue
        c = p[1]
        p += 2
        if c == c'u':
            code = <unsigned int>_hex(p)
            p += 4
            if 0xD800 <= code < 0xDC00:
                code = 0x10000 + ((code - 0xD800) << 10) + (<unsigned int>_hex(p + 2) - 0xDC00)
                p += 6
            out += _encode(code, out)
            continue
        if c == c'b':
            c = c'\b'
        elif c == c'f':
            c = c'\f'
        elif c == c'n':
            c = c'\n'
        elif c == c'r':
            c = c'\r'
        elif c == c't':
            c = c'\t'
        out[0] = c
        out += 1
    return out - begin


cdef const char *skip_literal(const char *p, const char *end) noexcept:
    if end - p >= 4 and (memcmp(p, b"true", 4) == 0 or memcmp(p, b"null", 4) == 0):
        return p + 4
    if end - p >= 5 and memcmp(p, b"false", 5) == 0:
        return p + 5
    return NULL


cdef const char *_key_end(const char *p, const char *end, const char **at) noexcept:
    """Skip a key, its colon and the space around them."""
    cdef bint escaped
    at[0] = p
    if p >= end or p[0] != c'"':
        return NULL
    p = string_close(p + 1, end, &escaped)
    if p is NULL:
        return NULL
    p = skip_space(p + 1, end)
    at[0] = p
    if p >= end or p[0] != c':':
        return NULL
    return skip_space(p + 1, end)


cdef const char *skip_container(const char *p, const char *end, int depth, const char **at) noexcept:
    # a loop with one byte per open container (1 = object), so that no frame can exhaust the stack
    cdef unsigned char objects[MAX_DEPTH]
    cdef int outer = depth
    cdef char c
    while True:
        at[0] = p
        if p >= end:
            return NULL
        c = p[0]
        if c == c'{' or c == c'[':
            if depth >= MAX_DEPTH:
                return NULL
            objects[depth] = c == c'{'
            depth += 1
            p = skip_space(p + 1, end)
            at[0] = p
            if p >= end:
                return NULL
            if p[0] == (c'}' if c == c'{' else c']'):
                depth -= 1
                p += 1
            else:
                if c == c'{':
                    p = _key_end(p, end, at)
                    if p is NULL:
                        return NULL
                continue
        else:
            p = skip_value(p, end, depth, at)
            if p is NULL:
                return NULL
        # a value has ended: close the containers that end here, or go to the next value
        while True:
            if depth == outer:
                return p
            p = skip_space(p, end)
            at[0] = p
            if p >= end:
                return NULL
            if p[0] == c',':
                p = skip_space(p + 1, end)
                if objects[depth - 1]:
                    p = _key_end(p, end, at)
                    if p is NULL:
                        return NULL
                break
            if p[0] != (c'}' if objects[depth - 1] else c']'):
                return NULL
            p += 1
            depth -= 1
