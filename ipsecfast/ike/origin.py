"""Which of several IKE SAs between the same two stays (RFC 7296 s2.8.1, s2.8.3).

Each IKE_AUTH is an origin; whatever rekeys make of its IKE SA is of the same one. An origin comes after the one that
stood when it was begun: it is there in that one's place, so it stays and the other goes. Of two that were begun beside
each other, after the same one or after none, the one with the lowest of the four nonces goes (s2.8.1), and with it what
came after it. So there is one order of all of them, in which neither time nor the order in which they came about
counts, and both ends find it: an end begins none in the place of one of which the peer may not know that it stands
(`proved`), none while another one of its own is under way, and sends no IKE_AUTH when another has come to stand
meanwhile (`Connection.already_up`). So what stood here before an IKE SA was begun, stood at the other end before its
IKE_SA_INIT came there.
"""

from __future__ import annotations

from collections.abc import Iterable

MAX_KNOWN = 8  # origins that one is compared with: a peer may authenticate itself again and again


class Origin:
    """Of one IKE SA and its successors. `began`: by us. `begun` and `stands` are places in the order of all that was
    begun and came to stand here, so that two things of one moment differ."""

    __slots__ = ("anew", "before", "began", "begun", "known", "nonces", "proved", "stands", "void")

    def __init__(self, *, began: bool, begun: int) -> None:
        self.began = began
        self.begun = begun
        self.anew = False  # begun by us in the place of another, whose Child SAs it gets (s2.8.3)
        self.stands: int | None = None
        self.nonces = (b"", b"")
        self.before: Origin | None = None
        self.known: list[Origin] = []  # of the same two ends, in the order in which they came to stand
        self.proved = False  # each end has seen that the other has it, by an exchange after IKE_AUTH
        self.void = False  # the peer has refused it or never got our answer, or it is long over

    def came_up(self, nonces: tuple[bytes, bytes], others: Iterable[Origin], stands: int) -> None:
        """It stands, among `others`: what came before it?"""
        self.nonces, self.stands = nonces, stands
        self.known = next((other.known for other in others), [])
        for elder in self.known:
            elder.void |= elder.began is self.began is False and not elder.proved
        elders = [o for o in self.known if (o.stands or 0) < self.begun or o.began is self.began]
        self.before = last(elder for elder in elders if not elder.void)
        self.known.append(self)
        if len(self.known) > MAX_KNOWN:
            self._forget()

    def _forget(self) -> None:
        """The first one, and what was begun beside the second."""
        stays = last(self.known)
        assert stays is not None
        first, *later = stays._line()
        second = later[0] if later else first
        for origin in self.known:
            origin.void |= not (origin is second or origin.comes_after(second))
        self.known[:] = [origin for origin in self.known if not origin.void]
        second.before = None

    def comes_after(self, other: Origin) -> bool:
        """It is there in the place of `other`, or of one that is."""
        return self is not other and other in self._line()

    def prevails(self, other: Origin) -> bool:
        """It stays and `other` goes."""
        if self.void or other.void:
            return other.void
        ours, theirs = self._line(), other._line()
        ours, theirs = [o for o in ours if o not in theirs], [o for o in theirs if o not in ours]
        if ours and theirs:  # the two that were begun beside each other
            return min(ours[0].nonces) > min(theirs[0].nonces)
        return not theirs

    def _line(self) -> list[Origin]:
        """From the first to this one."""
        line = [self]
        while (before := line[0].before) is not None:
            line.insert(0, before)
        return line


def last(origins: Iterable[Origin]) -> Origin | None:
    """The one that stays."""
    found: Origin | None = None
    for origin in origins:
        if found is None or origin.prevails(found):
            found = origin
    return found
