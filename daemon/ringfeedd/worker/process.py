"""How worker processes come to be: forked from the fork server, or, where there is none, started one by one."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ringfeedd.system.children import (
    STOPPED,
    ForkedProcess,
    PolledProcess,
    StartedProcess,
    WorkerProcess,
    describe,
    has_pidfds,
    process_state,
)
from ringfeedd.worker import forkserver
from ringfeedd.worker.forkserver import decode_pid, encode_fork, encode_import
from ringfeedd.worker.launcher import ORDERS, ForkServer, worker_environ

_LOG: Final = logging.getLogger("ringfeedd.pool")

FORKABLE: Final = "ringfeedd.worker.worker"
"""What the fork server has imported; anything else is started on its own."""

FIRST_ANSWER_TIMEOUT_S: Final = 30.0
"""The fork server has its imports before it, which take long on a busy machine."""

ANSWER_TIMEOUT_S: Final = 4.0
"""Later on it has nothing to do but to fork."""

STOPPED_TIMEOUT_S: Final = 2.0
"""For one that a signal or a debugger has stopped."""

LOOK_S: Final = 1.0
"""How often it is looked at."""

AGAIN_AFTER_S: Final = (0.0, 0.0, 1.0, 5.0, 30.0, 60.0)
"""How long after its end there is a new one, by how many ended in a row that had forked nothing."""


class Spawner:
    """Starts workers; one for the daemon, on its event loop only.

    A fork server that ends is replaced, later and later if it never forks anything; meanwhile workers are started one
    by one.

    Attributes:
        server_deaths: fork servers that ended since the start.
    """

    def __init__(self, server: ForkServer | None = None, module: str = FORKABLE) -> None:
        """Take over a fork server, if there is one; `close` ends it, or what has replaced it.

        Args:
            module: what workers run.
        """
        self._module = module
        self.server_deaths = 0
        self._server = server
        self._again_at: float | None = None  # when there is to be a new one; None: it is there, or not wanted
        self._vain = 0  # fork servers in a row that had forked nothing
        self._listens = False
        self._has_forked = False
        self._looked = 0.0
        self._stopped_since: float | None = None
        self._asked: deque[asyncio.Future[ForkedProcess]] = deque()
        self._needed: list[str] = []
        self._living: set[int] = set()

    def __repr__(self) -> str:
        return f"Spawner({self._server!r}, {len(self._living)} forked)"

    def need(self, modules: Iterable[str]) -> None:
        """Say which modules workers will need besides those that every worker needs."""
        self._needed += modules
        self._tell_needed()

    async def spawn(self, fds: Sequence[int]) -> WorkerProcess:
        """Start a worker.

        Args:
            fds: what it inherits, under the same numbers; the first is the connection that it is told of.

        Raises:
            OSError: it cannot be started.
        """
        if self._module == FORKABLE and self._server is not None:
            try:
                return await self._fork(self._server, fds)
            except (ConnectionError, TimeoutError):
                pass  # it has ended, which is said where that is noticed
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOMEM):
                    raise  # another way to start it needs no less
                _LOG.warning("a worker could not be forked (%s); it is started on its own", error.strerror)
        return await self._start(fds)

    async def _start(self, fds: Sequence[int]) -> WorkerProcess:
        command = [sys.executable, "-m", self._module, str(fds[0])]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ORDERS)  # until it ignores them
        try:
            process = subprocess.Popen(  # noqa: ASYNC220  # some ms
                command, stdin=subprocess.DEVNULL, pass_fds=fds, env=worker_environ(os.environ)
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return StartedProcess(process, self._living) if has_pidfds() else PolledProcess(process)

    def look(self, now: float) -> None:
        """Look after the fork server; to be called again and again.

        Args:
            now: seconds, monotonic.
        """
        server = self._server
        if server is None:
            if self._again_at is not None and now >= self._again_at:
                self._begin_another(now)
            return
        self._listen(server)
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if process_state(server.pid) not in STOPPED:
            self._stopped_since = None
        elif self._stopped_since is None:
            self._stopped_since = now
        elif now - self._stopped_since >= STOPPED_TIMEOUT_S:
            self._ended(server)

    def close(self) -> None:
        """End the fork server; workers live on."""
        self._again_at = None
        if self._server is not None:
            self._listen_no_more(self._server)
            self._server.close()
            self._server = None

    async def _fork(self, server: ForkServer, fds: Sequence[int]) -> ForkedProcess:
        self._listen(server)
        answer: asyncio.Future[ForkedProcess] = asyncio.get_running_loop().create_future()
        try:
            server.ask(encode_fork(fds), fds)  # at once: a cancelled caller closes the descriptors
        except ConnectionError:
            self._ended(server)
            raise
        self._asked.append(answer)
        try:
            return await self._answered(server, answer)
        except TimeoutError:
            self._ended(server)
            raise
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and not answer.exception():
                self._let_go(answer.result().pid)
            raise

    async def _answered(self, server: ForkServer, answer: asyncio.Future[ForkedProcess]) -> ForkedProcess:
        """Wait for an answer while one may come. Raises: TimeoutError: it hangs, or was stopped by a signal."""
        began = time.monotonic()
        timeout_s = ANSWER_TIMEOUT_S if self._has_forked else FIRST_ANSWER_TIMEOUT_S
        while (waited_s := time.monotonic() - began) < timeout_s:
            try:
                async with asyncio.timeout(min(LOOK_S, timeout_s - waited_s)):
                    return await asyncio.shield(answer)
            except TimeoutError:
                if process_state(server.pid) in STOPPED and waited_s >= STOPPED_TIMEOUT_S - LOOK_S:
                    break
            except asyncio.CancelledError:
                if not answer.done():
                    answer.cancel()
                raise
        if answer.done():
            return answer.result()
        answer.cancel()
        raise TimeoutError

    def _hear(self, server: ForkServer) -> None:
        for message in server.answers():
            if not message:
                self._ended(server)
                return
            self._take(message, self._asked.popleft())

    def _take(self, message: bytes, answer: asyncio.Future[ForkedProcess]) -> None:
        """Pass an answer on to the caller."""
        pid = None
        try:
            pid = decode_pid(message)
            self._has_forked = True
            self._vain = 0
            if not answer.done():
                answer.set_result(ForkedProcess(pid, self._living))
                return
        except OSError as error:
            if not answer.done():
                answer.set_exception(error)
        if pid is not None:  # no caller will wait for it, and another one may be given its connection
            self._let_go(pid)

    def _ended(self, server: ForkServer) -> None:
        if server is not self._server:
            return
        self._listen_no_more(server)
        self._server = None
        code = server.close()
        # Before another is started in its place, on the same connection. Once is not enough: the process in between may
        # be among them, and its child is found only when it has ended.
        while strays := list(_unannounced(self._living | {server.pid})):
            for pid in strays:
                self._let_go(pid)
        self.server_deaths += 1
        self._vain = 0 if self._has_forked else self._vain + 1
        delay_s = AGAIN_AFTER_S[min(self._vain, len(AGAIN_AFTER_S) - 1)]
        self._again_at = time.monotonic() + delay_s
        if not delay_s:
            self._begin_another(self._again_at)
        _LOG.warning(
            "the process from which workers are forked (pid %d) ended with %s; %s",
            *(server.pid, describe(code)),
            "there is a new one" if self._server else "workers are started on their own until there is a new one",
        )
        for answer in self._asked:
            if not answer.done():
                answer.set_exception(ConnectionResetError())
        self._asked.clear()

    def _begin_another(self, now: float) -> None:
        self._has_forked = False
        self._stopped_since = None
        self._server = ForkServer.begin()
        if self._server is None:
            self._again_at = now + AGAIN_AFTER_S[-1]
            return
        self._again_at = None
        self._listen(self._server)
        self._tell_needed()

    def _tell_needed(self) -> None:
        if self._server is not None:
            with contextlib.suppress(OSError):  # then it has ended, and the next request for a worker notices
                for module in self._needed:
                    self._server.ask(encode_import(module))

    def _listen(self, server: ForkServer) -> None:
        if not self._listens:
            asyncio.get_running_loop().add_reader(server, self._hear, server)
            self._listens = True

    def _listen_no_more(self, server: ForkServer) -> None:
        if self._listens:
            asyncio.get_running_loop().remove_reader(server)
            self._listens = False

    def _let_go(self, pid: int) -> None:
        """End a worker that was sent nothing."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._living.discard(pid)


def _unannounced(known: Container[int]) -> Iterator[int]:
    """Workers of a fork server that was killed before it could tell of them; no other process waits for their end."""
    for listed in Path("/proc/self/task").glob("*/children"):  # not there in some kernels: a zombie the more
        with contextlib.suppress(OSError):
            for pid in map(int, listed.read_text().split()):
                if pid not in known and Path(f"/proc/{pid}/comm").read_text().strip() == forkserver.NAME:
                    yield pid
