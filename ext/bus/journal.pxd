"""The journal's write side: append-only memory-mapped segments, no allocation per message."""

from libc.stdint cimport int64_t

from coinspace._ext.message cimport Header
from coinspace._ext.sink cimport Topic


cdef class Segment:
    """One mapped segment file; its disk blocks are reserved before the first write."""
    cdef:
        readonly object path
        readonly int64_t epoch
        readonly int64_t number
        readonly size_t size        # of the file while it is written
        readonly size_t used        # bytes of head and whole records
        char *_data                 # the mapping; NULL once closed
        int _fd

    cdef int release(self, part) except -1


cdef class JournalWriter:
    cdef:
        readonly Segment current    # None before the first segment and while the disk has no room for one
        Segment _next               # made ahead by the keeper's thread
        readonly list full          # segments that the keeper has to close
        object _on_full             # called without arguments when `current` is full
        readonly int64_t written    # messages
        readonly int64_t written_bytes
        readonly int64_t skipped    # messages that found no room

    # Returns: 1 = written, 0 = skipped and counted
    cdef int append(self, Topic topic, const Header *header, const void *payload, size_t size) except -1
    cdef int advance(self) except -1
