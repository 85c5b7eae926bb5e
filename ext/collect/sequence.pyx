"""The rules by which updates and snapshots make a local book.

They are those of Binance, "How to manage a local order book correctly" (WebSocket Streams). An update has the first and
the final id of what it sums up, `U` and `u`; a snapshot has the id of the last update in it, `lastUpdateId`. Rules that
the exchange does not give are ours, and say so.
"""

from libc.stdint cimport int64_t

# so many contained updates in a row, over so long a time: the ids have started again
CONTAINED_ROW = 5
CONTAINED_NS = 5_000_000_000
# the same of updates below the ids known before a loss
LOW_ROW = 5
LOW_NS = 5_000_000_000
# the same of snapshots that are older than what is known, which says it less surely
OLD_ROW = 5
OLD_NS = 60_000_000_000
# ids are far below this; above it arithmetic would overflow
ID_LIMIT = 1 << 62

cdef int contained_limit = CONTAINED_ROW
cdef int64_t contained_limit_ns = CONTAINED_NS
cdef int low_limit = LOW_ROW
cdef int64_t low_limit_ns = LOW_NS
cdef int old_limit = OLD_ROW
cdef int64_t old_limit_ns = OLD_NS
cdef int64_t id_limit = ID_LIMIT


cdef bint possible(int64_t first, int64_t final) noexcept:
    return 0 <= first <= final < id_limit


cdef class Sequence:
    """Ids in, verdicts out; no frame, no level, no clock of its own."""

    def __cinit__(self):
        self.patience_ns = contained_limit_ns

    # with a book

    cdef int judge(self, int64_t first, int64_t final, int lead, int64_t now_ns) noexcept:
        if self.last == 0:
            # "Buffer the events you receive from the stream", until a snapshot is there
            return NEED_SNAPSHOT
        if final <= self.last:
            # "If the event `u` is < the update ID of your local book, ignore the event"
            self.contained += 1
            return self.watch_contained(final, now_ns) if lead >= 0 else IGNORE
        if first > self.last + 1:
            # ours: of two connections the newer one may be ahead, and the older one brings what lies between
            if lead != 0:
                self.ahead += 1
                return IGNORE
            # "If the event `U` is > the update ID of your local book plus one, something went wrong: discard the local
            # book and start again"
            return GAP
        # "Normally, `U` of the next event is equal to the `u` of the event before, plus one"
        return APPLY

    cdef int watch_contained(self, int64_t final, int64_t now_ns) noexcept:
        # ours: an exchange that starts its ids again would be ignored for ever
        if self.contained_row == 0:
            self.contained_ns = now_ns
        elif final <= self.contained_id:
            # the same again, not a sequence of its own
            return IGNORE
        self.contained_id = final
        self.contained_row += 1
        if self.contained_row < contained_limit or now_ns - self.contained_ns < self.patience_ns:
            return IGNORE
        self.contained_row = 0
        return RESTARTED

    cdef int reach(self, int64_t final) noexcept:
        # "Set the update ID of your local book to the `u` of the event"
        self.last = final
        self.contained_row = 0
        self.patience_ns = contained_limit_ns
        return 0

    def update(self, int64_t first, int64_t final, int lead=0, int64_t now_ns=0):
        """Judge an update and, when it follows the book, go on to it: APPLY, IGNORE, GAP, NEED_SNAPSHOT or RESTARTED.

        Args: lead: below 0 = of the older of two connections, 0 = of the one that is believed, above 0 = of the newer.
        """
        cdef int verdict = self.judge(first, final, lead, now_ns) if possible(first, final) else IGNORE
        if verdict == APPLY:
            self.reach(final)
        return verdict

    # waiting for a snapshot

    def keep(self, int64_t first, int64_t final, bint believed=True, int64_t now_ns=0):
        """Judge an update that is kept for a snapshot: APPLY = keep it behind the others, GAP = keep it alone,
        IGNORE, or RESTARTED = keep it alone and forget what was known.
        """
        cdef int verdict = APPLY
        if self.kept_last and final <= self.kept_last:
            verdict = IGNORE
        elif self.kept_last and first > self.kept_last + 1:
            # the kept ones stay without a gap, so that all of them fit one snapshot
            verdict = GAP if believed else IGNORE
        if verdict != IGNORE:
            if verdict == GAP or not self.kept_last:
                self.kept_first = first
            self.kept_last = final
        if self.last == 0 and self.is_low(final, now_ns):
            self.trust()
            self.kept_first, self.kept_last = first, final
            return RESTARTED
        return verdict

    cdef bint is_low(self, int64_t final, int64_t now_ns) noexcept:
        # ours: nothing but ids below those known before, for long: they have started again
        if final >= max(self.floor, self.kept_last):
            self.low_row = 0
            return False
        if self.low_row == 0:
            self.low_ns = now_ns
        elif final <= self.low_id:
            return False
        self.low_id = final
        self.low_row += 1
        return self.low_row >= low_limit and now_ns - self.low_ns >= low_limit_ns

    def dropped(self, int64_t first):
        """Note that the kept updates begin with this id now, as there was no room for older ones; 0 = none is kept."""
        self.kept_first = first
        if first == 0:
            self.kept_last = 0

    def snapshot(self, int64_t last, int64_t now_ns=0, bint patient=False):
        """Judge a snapshot by the id of its last update, and go on to it when it fits: APPLY; NEED_SNAPSHOT = it is too
        old, ask again; RESTARTED = the same, and so often that what is known is forgotten; IGNORE = the book is newer;
        WAIT = it is ahead of the stream.

        Args: patient: whether one that is ahead of the stream may wait until that has got there.
        """
        if self.kept_last and last + 1 < self.kept_first:
            # "If the `lastUpdateId` from the snapshot is strictly less than the `U` of the first event you received, go
            # back" and ask again
            return self.too_old(now_ns)
        if self.last == 0 and last < self.floor:
            # ours: a book never goes back behind what was published
            return self.too_old(now_ns)
        if self.last and not self.kept_last and last < self.last:
            # ours: a deeper snapshot that is behind the book, with nothing kept that would bring it forward
            return IGNORE
        if self.last and last > self.last and patient:
            # ours: taken when the stream has got there, so that no update is left out of what is published
            return WAIT
        self.last = last
        self.kept_first = self.kept_last = 0
        self.trust()
        return APPLY

    cdef int too_old(self, int64_t now_ns) noexcept:
        if self.old_row == 0:
            self.old_ns = now_ns
        self.old_row += 1
        if self.old_row < old_limit or now_ns - self.old_ns < old_limit_ns:
            return NEED_SNAPSHOT
        # ours: what the stream had is suspected now, not REST
        self.trust()
        self.kept_first = self.kept_last = 0
        return RESTARTED

    def trust(self):
        """Forget what makes ids look too old."""
        self.floor = 0
        self.old_row = self.low_row = 0

    def lose(self):
        """Drop the book and the kept updates; what was published stays known."""
        self.floor = max(self.floor, self.last)
        self.last = 0
        self.contained_row = 0
        self.kept_first = self.kept_last = 0
