"""The rare cases of number reading, and Python access to it for tests."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.math cimport isfinite
from libc.string cimport memcpy

cdef extern from "Python.h":
    double PyOS_string_to_double(const char *s, char **endptr, object overflow) except? -1.0


cdef double _text_to_double(const char *p, Py_ssize_t size) except? -1.0:
    # CPython's conversion needs a closing zero byte; too large a number raises OverflowError
    cdef char stack[128]
    cdef char *copy = stack
    if size >= <Py_ssize_t>sizeof(stack):
        copy = <char*>PyMem_Malloc(<size_t>size + 1)
        if copy is NULL:
            raise MemoryError
    memcpy(copy, p, <size_t>size)
    copy[size] = 0
    try:
        return PyOS_string_to_double(copy, NULL, OverflowError)
    finally:
        if copy is not stack:
            PyMem_Free(copy)


cdef bint decimal_round(const Decimal *d, const char *p, const char *end, double *value) noexcept:
    try:
        value[0] = _text_to_double(p, end - p)
    except (OverflowError, MemoryError, ValueError):
        return False
    return isfinite(value[0])


def parse_int(bytes text not None):
    """Return a whole JSON number in any spelling as an integer.

    Raises: ValueError when it is not an integer within int64.
    """
    cdef const char *p = PyBytes_AS_STRING(text)
    cdef const char *end = p + PyBytes_GET_SIZE(text)
    cdef int64_t value = 0
    if not integer_read(p, end, &value):
        raise ValueError(f"expected an integer within int64, was {text[:64]!r}")
    return value


def parse_start(bytes text not None):
    """Return the JSON number at the beginning of a text as a double, and its size in bytes.

    Raises: ValueError when there is no number or it is not finite.
    """
    cdef const char *p = PyBytes_AS_STRING(text)
    cdef double value = 0
    cdef const char *after = number_read(p, p + PyBytes_GET_SIZE(text), &value)
    if after is NULL:
        raise ValueError(f"expected a finite JSON number, was {text[:64]!r}")
    return value, after - p
