r"""Rows as lines of QuestDB's text protocol, version 2, written directly from bus messages.

A line is `table,symbol=value,… column=value,… ts`; float64 and arrays are binary, little-endian:

    name==\x10<f64>                                  a number
    name==\x0e\x0a\x02<u32 2><u32 n><f64 × 2n>       [[prices], [sizes]]
    name=5i   name=5n                                an integer, a time in ns

The caller provides the beginning of the line: `head` has the table and the symbols, escaped.
"""

cimport cython

from libc.stdint cimport int64_t

from coinspace._ext.message cimport Message


@cython.final
cdef class Lines:
    cdef:
        char *_data
        readonly Py_ssize_t size        # bytes written
        Py_ssize_t _capacity            # bytes owned

    # order of calls: one line method per row, `tobytes` to send, `clear` to start again
    cdef char *room(self, Py_ssize_t n) except NULL
    cdef char *begin(self, bytes head, Message message, int kind, Py_ssize_t more) except NULL
    cdef Py_ssize_t end(self, char *p, Message message, int64_t at_ns) noexcept
    cpdef Py_ssize_t orderbook(self, bytes head, Message message, Py_ssize_t depth) except -1
    cpdef Py_ssize_t ticker(self, bytes head, Message message) except -1
    cpdef Py_ssize_t trade(self, bytes head, Message message) except -1
