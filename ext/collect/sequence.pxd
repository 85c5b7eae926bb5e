"""The place of a local book in its exchange's ids. No I/O, so that each rule can be tested alone."""

from libc.stdint cimport int64_t


cdef enum Verdict:
    APPLY = 1           # the update or snapshot follows the book
    IGNORE = 2          # the book has the update already, or another connection brings the updates in between
    GAP = 3             # updates before this one are missing
    NEED_SNAPSHOT = 4   # the update has no book to follow, or the snapshot is too old
    RESTARTED = 5       # the exchange's ids have started again
    WAIT = 6            # the snapshot is ahead of the stream
    CUT = 7             # the update has more levels than the parser has room for


# whether an exchange can send these ids
cdef bint possible(int64_t first, int64_t final) noexcept


cdef class Sequence:
    cdef:
        readonly int64_t last            # final id of the last update in the book, 0 = there is no book
        readonly int64_t kept_first      # first and last id of the kept updates, which have no gap; 0 = none
        readonly int64_t kept_last
        public int64_t floor             # newest id that was published or that cannot be applied
        public int64_t patience_ns       # longest time for which contained updates in a row are ignored
        int64_t contained                # updates that the book contained already
        readonly int64_t ahead           # updates of the newer of two connections that were ahead of the book
        # contained updates in a row, each with a higher id: number, last id, since when
        int contained_row
        int64_t contained_id
        int64_t contained_ns
        # updates in a row below the ids known before, each with a higher id: number, last id, since when
        int low_row
        int64_t low_id
        int64_t low_ns
        # snapshots in a row that are older than the known ids: number, since when
        int old_row
        int64_t old_ns

    # judge an update with possible ids. lead: its connection: < 0 = the older of two, 0 = the primary one, > 0 = the
    # newer of two
    cdef int judge(self, int64_t first, int64_t final, int lead, int64_t now_ns) noexcept
    # the book now ends with this id
    cdef int reach(self, int64_t final) noexcept
    cdef int watch_contained(self, int64_t final, int64_t now_ns) noexcept
    cdef bint is_low(self, int64_t final, int64_t now_ns) noexcept
    cdef int too_old(self, int64_t now_ns) noexcept
