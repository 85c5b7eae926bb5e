"""The rules for several links that deliver the same market for good.

Each link brings the whole stream in order. An update is taken from the link that brings it first. What the others bring
is compared with it: a link that brings another content shows a fault of the exchange or of the way.
"""

from libc.stdint cimport int64_t, uint64_t

# a link that is ahead of the book is not believed before this time: the others bring the updates in between
WAIT_NS = 1_000_000_000
cdef int64_t wait_ns = WAIT_NS


cdef class Links:
    """Ids and contents in, comparisons out, without frames, levels or a clock."""

    cdef int take(self, int64_t first, int64_t final, uint64_t content, int link) noexcept:
        self.recent[self.n_taken % KEPT] = Brought(first, final, content, link)
        self.n_taken += 1
        self.leader = link
        self.ahead = 0
        return 0

    cdef int compare(self, int64_t first, int64_t final, uint64_t content, int link) noexcept:
        cdef int64_t at = self.n_taken
        cdef int64_t end = max(0, self.n_taken - KEPT)
        cdef int found = UNKNOWN
        cdef Brought *one
        while at > end:
            at -= 1
            one = &self.recent[at % KEPT]
            if one.final != final or one.first != first:
                continue
            if one.link == link:
                return OWN
            if one.content == content:
                self.confirmed += 1
                return SAME
            found = DIFFERENT
        if found == DIFFERENT:
            self.disagreed += 1
        else:
            self.unmatched += 1
        return found

    cdef bint waits(self, int link, int64_t now_ns) noexcept:
        if self.ahead == 0:
            self.ahead = link
            self.ahead_ns = now_ns
        elif self.ahead != link:
            # both are ahead: nothing brings the updates in between
            return False
        return now_ns - self.ahead_ns < wait_ns

    def taken(self, int64_t first, int64_t final, uint64_t content, int link):
        """Note an accepted update."""
        self.take(first, final, content, link)

    def compared(self, int64_t first, int64_t final, uint64_t content, int link):
        """Compare a late update; return UNKNOWN, SAME, DIFFERENT or OWN as a number."""
        return self.compare(first, final, content, link)

    def waiting(self, int link, int64_t now_ns):
        """Return whether another link may still bring the updates between the book and this link."""
        return self.waits(link, now_ns)
