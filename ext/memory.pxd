"""Memory that grows and is never released between calls."""

from cpython.mem cimport PyMem_Realloc
from cpython.pyport cimport PY_SSIZE_T_MAX


cdef inline int grow(void** memory, Py_ssize_t n, size_t item) except -1:
    # Makes room for n items and keeps the old content. Raises: MemoryError, also when the size in bytes overflows
    cdef void* grown = NULL
    if 0 <= n <= PY_SSIZE_T_MAX // <Py_ssize_t>item:
        grown = PyMem_Realloc(memory[0], <size_t>n * item)
    if grown == NULL:
        raise MemoryError
    memory[0] = grown
    return 0
