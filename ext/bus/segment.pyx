"""The journal's read side: turns records into runs of sequences and messages. Scans need no GIL."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from coinspace._ext.checksum cimport checksum
from coinspace._ext.message cimport HEADER_SIZE, Header, Message, fits
from coinspace._ext.record cimport (
    Found, HEAD_SIZE, Head, PREFIX_SIZE, Prefix, RECORD, SEGMENT_VERSION, TORN, inspect, payload_offset,
)

from coinspace.errors import JournalError

SEGMENT_HEAD_SIZE = HEAD_SIZE

cdef enum:
    TOPIC_LIMIT = 255
    SEQUENCE_BITS = 53  # as on the bus
    LOOK_BACK = 4096    # newest runs that a record is compared with: more than a publisher has topics


cdef struct Run:
    # consecutive sequences of one topic within a segment
    int64_t first
    int64_t last
    int64_t offset       # of the first record, from the segment's start
    int64_t end          # behind the last record
    int64_t started_ns   # published_ns of the first and of the last message
    int64_t ended_ns
    Py_ssize_t topic_size
    char topic[TOPIC_LIMIT + 1]


def checksum64(data):
    """Return the XXH64 of a buffer, as the journal uses it."""
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        return checksum(view.buf, <size_t>view.len)
    finally:
        PyBuffer_Release(&view)


def read_head(bytes data not None):
    """Return (epoch, number, created_ns) from a segment's first 64 bytes.

    Raises: JournalError when the bytes are not a segment's head.
    """
    cdef Head head
    if len(data) < HEAD_SIZE:
        raise JournalError(f"segment head: expected {HEAD_SIZE} bytes, was {len(data)}")
    memcpy(&head, PyBytes_AS_STRING(data), HEAD_SIZE)
    if memcmp(head.magic, b"COINJRNL", 8) or head.check != checksum(&head, HEAD_SIZE - 8):
        raise JournalError(f"segment head: expected COINJRNL and its checksum, was {data[:HEAD_SIZE]!r}")
    if head.version != SEGMENT_VERSION:
        raise JournalError(f"segment version: expected {SEGMENT_VERSION}, was {head.version}")
    return head.epoch, head.number, head.created_ns


cdef class SegmentIndex:
    """The runs of consecutive sequences in a segment, by topic. Grows with the segment.

    Attributes:
        end: offset behind the last whole record.
        records: number of whole records so far.
        unreadable: records of messages that this release cannot read; they are in no run.
        torn: whether the last record is followed by bytes that are not a whole record.
    """

    cdef:
        readonly int64_t end
        readonly int64_t records
        readonly int64_t unreadable
        readonly bint torn
        Run *_runs
        Py_ssize_t _n_runs
        Py_ssize_t _capacity

    def __cinit__(self):
        self.end = HEAD_SIZE

    def __dealloc__(self):
        free(self._runs)

    def extend(self, data):
        """Read on: `data` is the segment's bytes from offset `end`. A record cut short is left for later."""
        cdef Py_buffer view
        cdef Found found
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            with nogil:
                found = self.scan(<const char *>view.buf, <size_t>view.len)
            self.torn = found == TORN
        finally:
            PyBuffer_Release(&view)

    @property
    def runs(self):
        """List of (topic, first, last, offset, end, started_ns, ended_ns), in order of their beginning."""
        return [
            (
                PyBytes_FromStringAndSize(self._runs[i].topic, self._runs[i].topic_size),
                self._runs[i].first, self._runs[i].last, self._runs[i].offset, self._runs[i].end,
                self._runs[i].started_ns, self._runs[i].ended_ns,
            )
            for i in range(self._n_runs)
        ]

    cdef Found scan(self, const char *data, size_t size) noexcept nogil:
        cdef size_t offset = 0
        cdef const Prefix *prefix
        cdef Found found = inspect(data, size)
        while found == RECORD:
            prefix = <const Prefix *>(data + offset)
            if not readable(prefix):
                self.unreadable = self.unreadable + 1
            elif not self.add(prefix, self.end):
                return TORN
            self.end = self.end + prefix.size  # "+=" would check self for None, which needs the GIL
            self.records = self.records + 1
            offset += prefix.size
            found = inspect(data + offset, size - offset)
        return found

    # Returns: 0 = no memory, or a topic that is too long
    cdef int add(self, const Prefix *prefix, int64_t offset) noexcept nogil:
        cdef const Header *header = <const Header *>(<const char *>prefix + PREFIX_SIZE)
        cdef const char *topic = <const char *>header + HEADER_SIZE
        cdef Py_ssize_t size = prefix.topic_size
        cdef Py_ssize_t i = self._n_runs
        cdef Py_ssize_t oldest = max(0, i - LOOK_BACK)
        cdef Run *run
        if size > TOPIC_LIMIT:
            return 0
        # the newest run of the topic is among the last ones
        while i > oldest:
            i -= 1
            run = &self._runs[i]
            if run.topic_size == size and not memcmp(run.topic, topic, <size_t>size):
                if header.sequence != run.last + 1:
                    break
                run.last = header.sequence
                run.end = offset + prefix.size
                run.ended_ns = header.published_ns
                return 1
        if self._n_runs == self._capacity:
            self._capacity = self._capacity * 2 + 16
            run = <Run *>realloc(self._runs, <size_t>self._capacity * sizeof(Run))
            if run == NULL:
                return 0
            self._runs = run
        run = &self._runs[self._n_runs]
        self._n_runs = self._n_runs + 1
        run.first = run.last = header.sequence
        run.offset = offset
        run.end = offset + prefix.size
        run.started_ns = run.ended_ns = header.published_ns
        run.topic_size = size
        memcpy(run.topic, topic, <size_t>size)
        return 1


# whether this release can read the message; others are skipped, so that the rest of the segment is read
cdef inline bint readable(const Prefix *prefix) noexcept nogil:
    cdef const Header *header = <const Header *>(<const char *>prefix + PREFIX_SIZE)
    return (
        prefix.topic_size <= TOPIC_LIMIT and header.epoch > 0 and header.sequence > 0
        and not header.sequence >> SEQUENCE_BITS and fits(header, header.payload_size)
    )


def select(data, bytes topic not None, int64_t first, int64_t end, Py_ssize_t limit):
    """Copy a topic's records with sequences in [first, end) from a part of a segment.

    Args: limit: bytes to copy at most; the first record is always copied.
    Returns: (records as bytes, count, first sequence not copied, bytes of `data` read, whether the
        limit was reached).
    """
    cdef Py_buffer view
    cdef const char *name = PyBytes_AS_STRING(topic)
    cdef size_t name_size = <size_t>len(topic)
    cdef size_t offset = 0
    cdef size_t copied = 0
    cdef size_t room = <size_t>limit
    cdef int64_t following = first
    cdef Py_ssize_t count = 0
    cdef const Prefix *prefix
    cdef const Header *header
    cdef char *to = NULL
    cdef char *grown
    cdef size_t capacity = 0
    cdef bint full = False
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    try:
        with nogil:
            while following < end and inspect(<const char *>view.buf + offset, view.len - offset) == RECORD:
                prefix = <const Prefix *>(<const char *>view.buf + offset)
                header = <const Header *>(<const char *>prefix + PREFIX_SIZE)
                if (
                    prefix.topic_size == name_size and header.sequence >= following
                    and header.sequence < end and readable(prefix)
                    and not memcmp(<const char *>header + HEADER_SIZE, name, name_size)
                ):
                    if count and copied + prefix.size > room:
                        full = True
                        break
                    if copied + prefix.size > capacity:
                        capacity = max(room, copied + prefix.size)
                        grown = <char *>realloc(to, capacity)
                        if grown == NULL:
                            break
                        to = grown
                    memcpy(to + copied, prefix, prefix.size)
                    copied += prefix.size
                    count += 1
                    following = header.sequence + 1
                offset += prefix.size
        return PyBytes_FromStringAndSize(to, <Py_ssize_t>copied), count, following, offset, full
    finally:
        free(to)
        PyBuffer_Release(&view)


def messages(data, *, bint strict=True):
    """Return the messages in a part of a segment, as a list of Message.

    Borrowed: the payloads are views on `data` and keep it alive.
    Args: strict: raise MessageError for a message that this release cannot read; False = skip it.
    Raises: JournalError when `data` does not consist of whole records.
    """
    cdef Py_buffer view
    cdef size_t offset = 0
    cdef size_t start
    cdef const Prefix *prefix
    cdef const Header *header
    cdef const char *topic
    cdef Message message
    cdef Found found
    cdef list result = []
    owner = memoryview(data).toreadonly()
    PyObject_GetBuffer(owner, &view, PyBUF_SIMPLE)
    try:
        while True:
            found = inspect(<const char *>view.buf + offset, view.len - offset)
            if found != RECORD:
                break
            prefix = <const Prefix *>(<const char *>view.buf + offset)
            header = <const Header *>(<const char *>prefix + PREFIX_SIZE)
            if not strict and not readable(prefix):
                offset += prefix.size
                continue
            topic = <const char *>header + HEADER_SIZE
            message = Message.__new__(Message)
            start = offset + payload_offset(prefix.topic_size)
            message.fill(
                PyBytes_FromStringAndSize(topic, prefix.topic_size), header,
                owner[start:start + header.payload_size],
                <const char *>view.buf + start, header.payload_size,
            )
            result.append(message)
            offset += prefix.size
        if found == TORN or offset < <size_t>view.len:
            raise JournalError(
                f"journal records: expected whole records up to byte {view.len}, was cut or damaged"
                f" at byte {offset}"
            )
        return result
    finally:
        PyBuffer_Release(&view)
