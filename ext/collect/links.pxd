"""What several links of one market have brought: the first arrival counts, later ones are compared."""

from libc.stdint cimport int64_t, uint64_t


cdef enum:
    KEPT = 64           # of the last accepted updates or books, for the comparison

cdef enum Comparison:
    UNKNOWN = 0         # no other link has brought an update of these ids, or it is too long ago
    SAME = 1
    DIFFERENT = 2
    OWN = 3             # the link itself has brought it before


cdef struct Brought:
    int64_t first
    int64_t final
    uint64_t content
    int link


cdef class Links:
    cdef:
        Brought recent[KEPT]             # a ring
        int64_t n_taken
        int ahead                        # a link that is ahead of the book, 0 = none
        int64_t ahead_ns                 # since when
        readonly int leader              # the link of the last accepted update
        readonly int64_t confirmed       # updates that the other link brought as well, with the same content
        readonly int64_t disagreed       # the same ids with another content
        readonly int64_t unmatched       # updates that came too late or with other ids, so that nothing was compared

    # note an accepted update, or a book with its time as `final`
    cdef int take(self, int64_t first, int64_t final, uint64_t content, int link) noexcept
    # compare a late update. Returns: a Comparison
    cdef int compare(self, int64_t first, int64_t final, uint64_t content, int link) noexcept
    # whether another link may still bring the updates between the book and this link
    cdef bint waits(self, int link, int64_t now_ns) noexcept
