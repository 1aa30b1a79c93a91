"""What can go wrong on the daemon's side; every message is a sentence for the operator who reads it."""

from __future__ import annotations

EXIT_CLEAN = 0
EXIT_CRASH = 1
EXIT_USAGE = 2
EXIT_COULD_NOT_START = 3
EXIT_ALREADY_RUNNING = 75
EXIT_BAD_CONFIG = 78


def encodable(text: str) -> str:
    r"""Return `text` with what UTF-8 cannot encode (lone surrogates) written as escapes, ``\udc80``.

    Text from outside may hold them: JSON of a server, file names, header values. A sentence that cannot be encoded
    cannot be printed, sent or stored either.
    """
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


class DaemonError(Exception):
    """The daemon cannot start or go on; the message says what happened, to what, and what to do.

    Attributes:
        sentences: one for each fault; the message has them all, one on each line.
    """

    exit_code = EXIT_COULD_NOT_START

    def __init__(self, *sentences: str) -> None:
        self.sentences = tuple(map(encodable, sentences))
        super().__init__("\n".join(self.sentences))


class StartError(DaemonError):
    """Something that the daemon needs is missing: the bucket, credentials, pairs, memory."""


class StoreDownError(StartError):
    """What the start needs of the store is not available now, and may be a little later.

    Attributes:
        retry_after_s: how long the store asked us to wait, in seconds; None where it said nothing.
        unreachable: its host does not resolve, or refuses the connection: an outage, or a wrong address.
    """

    def __init__(self, sentence: str, *, retry_after_s: float | None = None, unreachable: bool = False) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s
        self.unreachable = unreachable


class AlreadyRunningError(DaemonError):
    """Another daemon serves this ring."""

    exit_code = EXIT_ALREADY_RUNNING


class CrashError(DaemonError):
    """A defect, or something that took away what the daemon needs while it ran."""

    exit_code = EXIT_CRASH


class ConfigError(DaemonError):
    """The configuration is wrong: an unknown setting, an invalid value, or settings that contradict each other."""

    exit_code = EXIT_BAD_CONFIG


class BadPairError(Exception):
    """One pair fails to load; the stream goes on with another draw in its place.

    Attributes:
        cause: a short word for counting, e.g. ``"missing"``, ``"crc32c"``, ``"corrupt"``, ``"too_large"``.
        attempts: how many times it was tried.
        retries: cause -> how many failures were followed by another attempt.
    """

    def __init__(self, reason: str, *, cause: str, attempts: int = 1, retries: dict[str, int] | None = None) -> None:
        super().__init__(encodable(reason))
        self.cause = cause
        self.attempts = attempts
        self.retries = retries or {}
