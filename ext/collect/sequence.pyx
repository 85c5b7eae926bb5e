"""The rules by which updates and snapshots make a local book.

Quoted rules are from Binance, "How to manage a local order book correctly" (WebSocket Streams). An update has a first
and a final id, `U` and `u`; a snapshot has the id of its last update, `lastUpdateId`. Rules marked "CoinSpace's" are
not in that document.
"""

from libc.stdint cimport int64_t

# the ids have started again after this many contained updates in a row over this time
CONTAINED_ROW = 5
CONTAINED_NS = 5_000_000_000
# the same for updates below the ids known before a loss
LOW_ROW = 5
LOW_NS = 5_000_000_000
# the same for snapshots older than the known ids, over a longer time because this is weaker evidence
OLD_ROW = 5
OLD_NS = 60_000_000_000
# limit of ids: real ids are far below it, and above it arithmetic would overflow
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
    """Ids in, verdicts out, without frames, levels or a clock."""

    def __cinit__(self):
        self.patience_ns = contained_limit_ns

    # with a book

    cdef int judge(self, int64_t first, int64_t final, int lead, int64_t now_ns) noexcept:
        if self.last == 0:
            # "Buffer the events you receive from the stream", until a snapshot comes
            return NEED_SNAPSHOT
        if final <= self.last:
            # "If the event `u` is < the update ID of your local book, ignore the event"
            self.contained += 1
            return self.watch_contained(final, now_ns) if lead >= 0 else IGNORE
        if first > self.last + 1:
            # CoinSpace's: the newer of two connections may be ahead; the older one brings the updates in between
            if lead != 0:
                self.ahead += 1
                return IGNORE
            # "If the event `U` is > the update ID of your local book plus one, something went wrong: discard the local
            # book and start again"
            return GAP
        # "Normally, `U` of the next event is equal to the `u` of the event before, plus one"
        return APPLY

    cdef int watch_contained(self, int64_t final, int64_t now_ns) noexcept:
        # CoinSpace's: without it, updates would be ignored for ever after an exchange has started its ids again
        if self.contained_row == 0:
            self.contained_ns = now_ns
        elif final <= self.contained_id:
            # a repeat, not part of a new sequence
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
        """Judge an update; APPLY moves the book to its final id.

        Args: lead: its connection: < 0 = the older of two, 0 = the primary one, > 0 = the newer of two.
        Returns: APPLY, IGNORE, GAP, NEED_SNAPSHOT or RESTARTED.
        """
        cdef int verdict = self.judge(first, final, lead, now_ns) if possible(first, final) else IGNORE
        if verdict == APPLY:
            self.reach(final)
        return verdict

    # waiting for a snapshot

    def keep(self, int64_t first, int64_t final, bint believed=True, int64_t now_ns=0):
        """Judge an update that is kept for a snapshot.

        Args: believed: whether it comes from the primary connection.
        Returns: APPLY = keep it after the others, GAP = keep only this one, IGNORE, or RESTARTED = keep only this one
            and forget the known ids.
        """
        cdef int verdict = APPLY
        if self.kept_last and final <= self.kept_last:
            verdict = IGNORE
        elif self.kept_last and first > self.kept_last + 1:
            # kept updates have no gap, so that all of them fit one snapshot
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
        # CoinSpace's: when all ids are below the known ones for long, the ids have started again
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
        """Note the first id of the kept updates after older ones were dropped; 0 = none is kept."""
        self.kept_first = first
        if first == 0:
            self.kept_last = 0

    def snapshot(self, int64_t last, int64_t now_ns=0, bint patient=False):
        """Judge a snapshot by the id of its last update; APPLY moves the book to this id.

        Args: patient: whether a snapshot that is ahead of the stream may wait for the stream.
        Returns: APPLY; NEED_SNAPSHOT = too old, ask again; RESTARTED = too old so often that the known ids are
            forgotten; IGNORE = the book is newer; WAIT = the snapshot is ahead of the stream.
        """
        if self.kept_last and last + 1 < self.kept_first:
            # "If the `lastUpdateId` from the snapshot is strictly less than the `U` of the first event you received, go
            # back" and ask again
            return self.too_old(now_ns)
        if self.last == 0 and last < self.floor:
            # CoinSpace's: a book never goes back behind a published id
            return self.too_old(now_ns)
        if self.last and not self.kept_last and last < self.last:
            # CoinSpace's: a deeper snapshot is behind the book, and no kept update would bring it forward
            return IGNORE
        if self.last and last > self.last and patient:
            # CoinSpace's: the snapshot is used when the stream has reached it, so that every update is published
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
        # CoinSpace's: now the ids of the stream are suspected, not REST
        self.trust()
        self.kept_first = self.kept_last = 0
        return RESTARTED

    def trust(self):
        """Forget the ids that make others look too old."""
        self.floor = 0
        self.old_row = self.low_row = 0

    def lose(self):
        """Drop the book and the kept updates; remember the newest published id."""
        self.floor = max(self.floor, self.last)
        self.last = 0
        self.contained_row = 0
        self.kept_first = self.kept_last = 0
