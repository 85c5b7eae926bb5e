"""Memory that only grows and is kept between calls."""

from cpython.mem cimport PyMem_Realloc
from cpython.pyport cimport PY_SSIZE_T_MAX


cdef inline int grow(void** memory, Py_ssize_t n, size_t item) except -1:
    # room for n items, what is there stays; a number whose bytes cannot be counted has no room
    cdef void* grown = NULL
    if 0 <= n <= PY_SSIZE_T_MAX // <Py_ssize_t>item:
        grown = PyMem_Realloc(memory[0], <size_t>n * item)
    if grown == NULL:
        raise MemoryError
    memory[0] = grown
    return 0
