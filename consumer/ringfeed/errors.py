"""What a trainer can meet; every message says what happened, to what, and what to do."""

from __future__ import annotations


class RingfeedError(Exception):
    """The base of every error that Ringfeed raises in a trainer."""


class DaemonNotRunningError(RingfeedError):
    """No daemon serves this ring on this machine."""


class DaemonGoneError(RingfeedError):
    """The daemon that served this ring stopped, died, or gave the ring up; the message tells which."""


class RingFailedError(DaemonGoneError):
    """The daemon stopped this ring for good; the message has the daemon's reason."""


class AttachRefusedError(RingfeedError):
    """The daemon refused the request; the message is the daemon's own sentence."""


class StateMismatchError(RingfeedError, ValueError):
    """A resume state is of another catalog, seed or order than the ring, or is not a state at all."""


class NotTrustedError(RingfeedError):
    """The ring's files belong to another user, or are not what they say."""


class NoAccessError(NotTrustedError, PermissionError):
    """This process may not open the ring's files, or may not write where a reader has to."""


class OtherVersionError(NotTrustedError):
    """The ring's daemon is of a release with another layout of the shared memory."""


class NoAddressSpaceError(RingfeedError, OSError):
    """This process may not map as much memory as the ring has."""


class RingHeldError(RingfeedError):
    """This consumer holds batches whose slots the next one needs, and there is no memory to move them to."""


class ReleasedError(RingfeedError):
    """The batch was released; its slots may hold other pairs by now."""


class ReaderClosedError(RingfeedError):
    """The reader was closed, or belongs to the process that forked this one."""


class SupersededError(RingfeedError, RuntimeError):
    """An iteration was asked for its next batch after a later one had begun, which reads on in its place."""


class SlotOverwrittenError(RingfeedError):
    """A slot holds another pair than the one that was promised."""


class InPlaceWriteError(RingfeedError, RuntimeError):
    """A trainer tried to write into a batch that other trainers read."""
