"""XXH64 with seed 0, after its public specification; about 10 GB/s without SIMD instructions."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #define COINSPACE_P1 0x9E3779B185EBCA87ULL
    #define COINSPACE_P2 0xC2B2AE3D27D4EB4FULL
    #define COINSPACE_P3 0x165667B19E3779F9ULL
    #define COINSPACE_P4 0x85EBCA77C2B2AE63ULL
    #define COINSPACE_P5 0x27D4EB2F165667C5ULL
    """
    uint64_t P1 "COINSPACE_P1"
    uint64_t P2 "COINSPACE_P2"
    uint64_t P3 "COINSPACE_P3"
    uint64_t P4 "COINSPACE_P4"
    uint64_t P5 "COINSPACE_P5"


cdef inline uint64_t rotate(uint64_t x, int n) noexcept nogil:
    return (x << n) | (x >> (64 - n))


cdef inline uint64_t word64(const unsigned char *p) noexcept nogil:
    cdef uint64_t x
    memcpy(&x, p, 8)
    return x


cdef inline uint64_t mix(uint64_t lane, uint64_t word) noexcept nogil:
    return rotate(lane + word * P2, 31) * P1


cdef inline uint64_t merge(uint64_t hash, uint64_t lane) noexcept nogil:
    return (hash ^ mix(0, lane)) * P1 + P4


cdef inline uint64_t checksum(const void *data, size_t size) noexcept nogil:
    cdef const unsigned char *p = <const unsigned char *>data
    cdef size_t left = size
    cdef uint64_t a = P1 + P2
    cdef uint64_t b = P2
    cdef uint64_t c = 0
    cdef uint64_t d = 0 - P1
    cdef uint64_t hash = P5
    cdef uint32_t half
    if left >= 32:
        while left >= 32:
            a = mix(a, word64(p))
            b = mix(b, word64(p + 8))
            c = mix(c, word64(p + 16))
            d = mix(d, word64(p + 24))
            p += 32
            left -= 32
        hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18)
        hash = merge(merge(merge(merge(hash, a), b), c), d)
    hash += <uint64_t>size
    while left >= 8:
        hash = rotate(hash ^ mix(0, word64(p)), 27) * P1 + P4
        p += 8
        left -= 8
    if left >= 4:
        memcpy(&half, p, 4)
        hash = rotate(hash ^ (<uint64_t>half * P1), 23) * P2 + P3
        p += 4
        left -= 4
    while left:
        hash = rotate(hash ^ (<uint64_t>p[0] * P5), 11) * P1
        p += 1
        left -= 1
    hash = (hash ^ (hash >> 33)) * P2
    hash = (hash ^ (hash >> 29)) * P3
    return hash ^ (hash >> 32)
