"""Memory that only grows and is kept between calls."""

from cpython.mem cimport PyMem_Realloc


cdef inline int grow(void** memory, Py_ssize_t n, size_t item) except -1:
    # room for n items, what is there stays
    cdef void* grown = PyMem_Realloc(memory[0], n * item)
    if grown == NULL:
        raise MemoryError
    memory[0] = grown
    return 0
