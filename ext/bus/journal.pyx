"""Write messages to the journal before they are published: a copy into mapped memory and a checksum.

A copied message survives the death of the process, since its pages belong to the kernel. It does not survive
the death of the machine. Making a segment reserves its disk space: a full disk raises an error there instead
of a SIGBUS later. The keeper makes and closes segments on its own thread; appending never waits for it.
"""

import os

from contextlib import suppress

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy
from posix.mman cimport MAP_FAILED, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap

from coinspace._ext.checksum cimport checksum
from coinspace._ext.message cimport HEADER_SIZE, Header
from coinspace._ext.record cimport (
    HEAD_SIZE, Head, PREFIX_SIZE, Prefix, RECORD_MARK, SEGMENT_VERSION, payload_offset, record_size,
)
from coinspace._ext.sink cimport Topic

cdef extern from "fcntl.h" nogil:
    int posix_fallocate(int fd, int64_t offset, int64_t size)

cdef extern from *:
    """
    static inline void coinspace_store_release(void *to, uint64_t word) {
        __atomic_store_n((uint64_t *)to, word, __ATOMIC_RELEASE);
    }
    static inline void coinspace_touch(char *to) {
        *(volatile char *)to = 0;
    }
    """
    void touch "coinspace_touch"(char *to) noexcept nogil
    void store_release "coinspace_store_release"(void *to, uint64_t word) noexcept nogil

PART_SUFFIX = ".part"

cdef enum:
    PAGE = 4096


cdef class Segment:
    """Make a segment file of `size` bytes, reserve its blocks and map it. Runs without the GIL.

    Raises: OSError when the disk is full or the folder cannot be written.
    """

    def __init__(self, path, int64_t epoch, int64_t number, size_t size, int64_t created_ns):
        cdef Head *head
        cdef int error
        cdef int fd
        cdef void *data
        cdef size_t offset
        self._fd = -1
        self.path = path
        self.epoch = epoch
        self.number = number
        self.size = size
        self.used = HEAD_SIZE
        # the file gets its name after its head is written: no reader ever sees half a head
        part = f"{path}{PART_SUFFIX}"
        fd = self._fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        with nogil:
            error = EINTR
            while error == EINTR:
                error = posix_fallocate(fd, 0, <int64_t>size)
            if not error:
                data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                if data == MAP_FAILED:
                    error = errno
        if error:
            os.close(fd)
            self._fd = -1
            with suppress(OSError):
                os.unlink(part)
            raise OSError(error, os.strerror(error), str(path))
        self._data = <char *>data
        with nogil:
            # cause the first page faults here instead of while a message waits
            offset = 0
            while offset < size:
                touch(self._data + offset)
                offset += PAGE
        head = <Head *>self._data
        memcpy(head.magic, b"COINJRNL", 8)
        head.version = SEGMENT_VERSION
        head.epoch = epoch
        head.number = number
        head.created_ns = created_ns
        head.check = checksum(head, HEAD_SIZE - 8)
        try:
            os.rename(part, path)
        except OSError:
            self.release(part)
            raise

    # releases memory, descriptor and file of a segment that cannot be used
    cdef int release(self, part) except -1:
        munmap(self._data, self.size)
        self._data = NULL
        os.close(self._fd)
        self._fd = -1
        with suppress(OSError):
            os.unlink(part)
        return 0

    def close(self):
        """Unmap the file and cut it to its used size; remove a segment without records."""
        if self._data != NULL:
            munmap(self._data, self.size)
            self._data = NULL
        if self._fd < 0:
            return
        try:
            if self.used > HEAD_SIZE:
                os.ftruncate(self._fd, self.used)
            else:
                os.unlink(self.path)
        finally:
            os.close(self._fd)
            self._fd = -1

    def __dealloc__(self):
        if self._data != NULL:
            munmap(self._data, self.size)


cdef class JournalWriter:
    """Appends messages to the current segment and continues in the next one.

    Args: on_full: called without arguments when a segment is full; the keeper then makes the next one.
    """

    def __init__(self, on_full):
        self._on_full = on_full
        self.full = []

    @property
    def has_next(self):
        """Whether a segment is ready to follow the current one."""
        return self._next is not None

    def provide(self, Segment segment not None):
        """Take the next segment, or the first one."""
        if self.current is None:
            self.current = segment
        else:
            self._next = segment

    def finish(self):
        """Stop taking messages. Returns: the open segments, which the caller closes."""
        left = [segment for segment in (self.current, self._next) if segment is not None]
        self.current = self._next = None
        return left

    cdef int append(self, Topic topic, const Header *header, const void *payload, size_t size) except -1:
        cdef size_t needed = record_size(topic.size, size)
        cdef Segment segment = self.current
        cdef char *to
        cdef Prefix prefix
        cdef uint64_t first_word
        if segment is None or segment.size - segment.used < needed:
            if segment is not None and needed <= segment.size - HEAD_SIZE:
                self.advance()
            segment = self.current
            if segment is None or segment.size - segment.used < needed:
                self.skipped += 1
                return 0
        to = segment._data + segment.used
        memcpy(to + PREFIX_SIZE, header, HEADER_SIZE)
        memcpy(to + PREFIX_SIZE + HEADER_SIZE, topic.data, topic.size)
        memcpy(to + payload_offset(topic.size), payload, size)
        prefix.size = <uint32_t>needed
        prefix.topic_size = <uint16_t>topic.size
        prefix.mark = RECORD_MARK
        # the padding is still zero
        prefix.check = checksum(to + PREFIX_SIZE, needed - PREFIX_SIZE)
        (<Prefix *>to).check = prefix.check
        memcpy(&first_word, &prefix, 8)
        store_release(to, first_word)
        segment.used += needed
        self.written += 1
        self.written_bytes += <int64_t>needed
        return 1

    cdef int advance(self) except -1:
        self.full.append(self.current)
        self.current = self._next
        self._next = None
        self._on_full()
        return 0
