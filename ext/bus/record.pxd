"""The journal's layout: a segment file is its head, then records, then zeros.

A record consists of its prefix, the message header, the topic and the payload. Topic and payload are padded
with zeros to 8 bytes. The writer stores the prefix's first word last: an unfinished record has none and reads
as the end. All numbers are little-endian.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from coinspace._ext.checksum cimport checksum
from coinspace._ext.message cimport HEADER_SIZE, Header

cdef enum:
    HEAD_SIZE = 64
    PREFIX_SIZE = 16
    RECORD_MARK = 0x4A43
    SEGMENT_VERSION = 1

cdef packed struct Head:
    char magic[8]          # "COINJRNL"
    uint32_t version
    uint32_t reserved
    int64_t epoch          # of the publisher
    int64_t number         # of the segment in the epoch, from 1
    int64_t created_ns
    int64_t unused[2]
    uint64_t check         # checksum of the bytes before

cdef packed struct Prefix:
    uint32_t size          # of the whole record with prefix and padding
    uint16_t topic_size
    uint16_t mark
    uint64_t check         # checksum of header, topic, payload and padding

cdef enum Found:
    RECORD = 1
    END = 0        # zeros, or nothing left
    TORN = -1      # bytes that are not a whole record


# offset of the payload in a record, aligned for float64 views
cdef inline size_t payload_offset(size_t topic_size) noexcept nogil:
    return (PREFIX_SIZE + HEADER_SIZE + topic_size + 7) & ~<size_t>7


cdef inline size_t record_size(size_t topic_size, size_t payload_size) noexcept nogil:
    return payload_offset(topic_size) + ((payload_size + 7) & ~<size_t>7)


# what is at `data`, of which `left` bytes may be read
cdef inline Found inspect(const char *data, size_t left) noexcept nogil:
    cdef const Prefix *prefix = <const Prefix *>data
    cdef const Header *header = <const Header *>(data + PREFIX_SIZE)
    if left < PREFIX_SIZE:
        while left:
            left -= 1
            if data[left]:
                return TORN
        return END
    if not prefix.size and not prefix.mark and not prefix.topic_size:
        # without the first word the record was never finished
        return END
    if prefix.mark != RECORD_MARK or prefix.size < PREFIX_SIZE + HEADER_SIZE or prefix.size > left:
        return TORN
    if prefix.size != record_size(prefix.topic_size, header.payload_size):
        return TORN
    if prefix.check != checksum(header, prefix.size - PREFIX_SIZE):
        return TORN
    return RECORD
