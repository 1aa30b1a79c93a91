"""How worker processes come to be: forked from the fork server, or, where there is none, started one by one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from ringfeedd import forkserver
from ringfeedd.forkserver import Request, decode_pid, encode_import
from ringfeedd.launch import ForkServer

_LOG: Final = logging.getLogger("ringfeedd.pool")

FORKABLE: Final = "ringfeedd.worker"
"""What the fork server has imported; anything else is started on its own."""

ANSWER_TIMEOUT_S: Final = 30.0
"""The fork server has its imports before it, which take long on a busy machine."""


class WorkerProcess(Protocol):
    """A child of this process, however it was started."""

    @property
    def pid(self) -> int:
        """Its own until `wait` has come back."""
        ...

    def kill(self) -> None:
        """Send SIGKILL. Raises: ProcessLookupError."""
        ...

    async def wait(self) -> int:
        """Its exit code, or minus the signal that ended it."""
        ...


class ForkedProcess:
    """A child that the fork server has forked."""

    def __init__(self, pid: int, living: set[int]) -> None:
        """Take it over, and note it in ``living`` until it has ended and was waited for. Raises: OSError."""
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._code: int | None = None
        self._living = living
        living.add(pid)

    def __repr__(self) -> str:
        return f"ForkedProcess({self.pid}, {'lives' if self._code is None else f'ended with {self._code}'})"

    def kill(self) -> None:
        """See `WorkerProcess.kill`."""
        if self._code is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> int:
        """See `WorkerProcess.wait`; by one task at a time."""
        if self._code is None:
            loop, ended = asyncio.get_running_loop(), asyncio.Event()
            loop.add_reader(self._pidfd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self._pidfd)
            _, status = os.waitpid(self.pid, 0)  # noqa: ASYNC222  # it has ended
            self._code = os.waitstatus_to_exitcode(status)
            self._living.discard(self.pid)
            os.close(self._pidfd)
        return self._code


class Spawner:
    """Starts workers; one for the daemon, on its event loop only.

    A fork server that ends is replaced, unless it has never forked anything: then the next one would not either, and
    workers are started one by one from there on.
    """

    def __init__(self, server: ForkServer | None = None) -> None:
        """Take over a fork server, if there is one; `close` ends it, or what has replaced it."""
        self._server = server
        self._listens = False
        self._has_forked = False
        self._asked: deque[asyncio.Future[ForkedProcess]] = deque()
        self._needed: list[str] = []
        self._living: set[int] = set()

    def __repr__(self) -> str:
        return f"Spawner({self._server!r}, {len(self._living)} forked)"

    def need(self, modules: Iterable[str]) -> None:
        """Say which modules workers will need beside those that every worker does."""
        self._needed += modules
        self._tell_needed()

    async def spawn(self, module: str, fds: Sequence[int]) -> WorkerProcess:
        """Start a worker.

        Args:
            module: what it runs.
            fds: what it inherits, under the same numbers; the first is the connection that it is told of.

        Raises:
            OSError: it cannot be started.
        """
        if module == FORKABLE and self._server is not None:
            try:
                return await self._fork(self._server, fds)
            except (ConnectionError, TimeoutError):
                pass  # it has ended, which is said where that is noticed
            except OSError as error:
                _LOG.warning("a worker could not be forked (%s); it is started on its own", error.strerror)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, str(fds[0])), stdin=asyncio.subprocess.DEVNULL, pass_fds=fds
        )

    def close(self) -> None:
        """End the fork server; workers live on."""
        if self._server is not None:
            self._listen_no_more(self._server)
            self._server.close()
            self._server = None

    async def _fork(self, server: ForkServer, fds: Sequence[int]) -> ForkedProcess:
        loop = asyncio.get_running_loop()
        if not self._listens:
            loop.add_reader(server, self._hear, server)
            self._listens = True
        answer: asyncio.Future[ForkedProcess] = loop.create_future()
        try:
            server.ask(Request(tuple(fds)).encode(), fds)  # at once: whoever is cancelled closes the descriptors
        except ConnectionError:
            self._ended(server)
            raise
        self._asked.append(answer)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await answer
        except TimeoutError:  # stopped by a signal, perhaps
            self._ended(server)
            raise
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and not answer.exception():
                self._let_go(answer.result().pid)
            raise

    def _hear(self, server: ForkServer) -> None:
        for message in server.answers():
            if not message:
                self._ended(server)
                return
            self._take(message, self._asked.popleft())

    def _take(self, message: bytes, answer: asyncio.Future[ForkedProcess]) -> None:
        """Hand an answer on to whoever asked."""
        pid = None
        try:
            pid = decode_pid(message)
            self._has_forked = True
            if not answer.done():
                answer.set_result(ForkedProcess(pid, self._living))
                return
        except OSError as error:
            if not answer.done():
                answer.set_exception(error)
        if pid is not None:  # nobody will wait for it, and another one may be given its connection
            self._let_go(pid)

    def _ended(self, server: ForkServer) -> None:
        if server is not self._server:
            return
        self._listen_no_more(server)
        code = server.close()
        # Before anybody is started in its place, on the same connection. Once is not enough: the process in between may
        # be among them, and its child is found only when it has ended.
        while strays := list(_unannounced(self._living)):
            for pid in strays:
                self._let_go(pid)
        self._server = ForkServer.begin() if self._has_forked else None
        self._has_forked = False
        _LOG.warning(
            "the process from which workers are forked (pid %d) ended with %s; %s",
            *(server.pid, describe(code), "there is a new one" if self._server else "workers are started on their own"),
        )
        self._tell_needed()
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(ConnectionResetError())
        self._asked.clear()

    def _tell_needed(self) -> None:
        if self._server is not None:
            with contextlib.suppress(OSError):  # then it has ended, and whoever asks for a worker notices
                for module in self._needed:
                    self._server.ask(encode_import(module))

    def _listen_no_more(self, server: ForkServer) -> None:
        if self._listens:
            asyncio.get_running_loop().remove_reader(server)
            self._listens = False

    def _let_go(self, pid: int) -> None:
        """End a worker that nobody has talked to."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._living.discard(pid)


def describe(code: int) -> str:
    """How a process ended, by its exit code as `WorkerProcess.wait` gives it."""
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _unannounced(known: Container[int]) -> Iterator[int]:
    """Workers of a fork server that was killed before it could tell of them: nobody else will wait for their end."""
    for listed in Path("/proc/self/task").glob("*/children"):  # not there in some kernels: a zombie the more
        with contextlib.suppress(OSError):
            for pid in map(int, listed.read_text().split()):
                if pid not in known and Path(f"/proc/{pid}/comm").read_text().strip() == forkserver.NAME:
                    yield pid
