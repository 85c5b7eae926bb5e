"""The place of a local book in its exchange's ids: pure, so that each rule can be tried alone."""

from libc.stdint cimport int64_t


cdef enum Verdict:
    APPLY = 1           # it follows what is there
    IGNORE = 2          # it is there already, or another connection brings what lies between
    GAP = 3             # updates before it are missing
    NEED_SNAPSHOT = 4   # there is no book that it could follow, or the snapshot does not reach far enough
    RESTARTED = 5       # the exchange's ids have started again
    WAIT = 6            # a snapshot is ahead of the stream
    CUT = 7             # it has more levels than there is room for


# whether ids are such as an exchange can send
cdef bint possible(int64_t first, int64_t final) noexcept


cdef class Sequence:
    cdef:
        readonly int64_t last            # final id of the last update in the book, 0 = there is no book
        readonly int64_t kept_first      # ids of the updates kept for a snapshot, without a gap; 0 = none
        readonly int64_t kept_last
        public int64_t floor             # newest id that was published or that cannot be applied
        public int64_t patience_ns       # how long a row of contained updates is borne
        readonly int64_t contained       # updates that the book has already
        readonly int64_t ahead           # updates of the newer of two connections, before it has caught up
        # a row of contained updates, each with a higher id: how many, the last id, since when
        int contained_row
        int64_t contained_id
        int64_t contained_ns
        # a row of updates below the ids known before, each with a higher id
        int low_row
        int64_t low_id
        int64_t low_ns
        # snapshots in a row that are older than what is known, and since when
        int old_row
        int64_t old_ns

    # judge an update whose ids can be. lead: below 0 = of the older of two connections, 0 = of the one that is believed, above 0 = of
    # the newer one
    cdef int judge(self, int64_t first, int64_t final, int lead, int64_t now_ns) noexcept
    # the book now ends with this id
    cdef int reach(self, int64_t final) noexcept
    cdef int watch_contained(self, int64_t final, int64_t now_ns) noexcept
    cdef bint is_low(self, int64_t final, int64_t now_ns) noexcept
    cdef int too_old(self, int64_t now_ns) noexcept
