"""libcurl's transfers on asyncio's event loop: its sockets in an epoll of their own, its one timer, what has ended."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pycurl

_TO_EPOLL: Final = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}
_LOST: Final = select.EPOLLERR | select.EPOLLHUP


@dataclass(frozen=True, slots=True)
class Ended:
    """How a transfer ended.

    Attributes:
        code: libcurl's ``CURLcode``; 0: a whole response came, of whatever status.
        detail: libcurl's words for it; empty where it has none.
    """

    code: int
    detail: str = ""


WELL: Final = Ended(0)


class CurlLoop:
    """Runs easy handles until they have ended; for the event loop in which it was made.

    libcurl tells which sockets it waits for. They stand in an epoll of our own, which is the one thing that the event
    loop watches: asyncio's readers cost some us for each change of mind, and libcurl changes its mind twice a request.
    """

    def __init__(self, max_connections: int) -> None:
        """Keep at most `max_connections` open for the next requests."""
        self._loop = asyncio.get_running_loop()
        self._flying: dict[pycurl.Curl, Callable[[Ended], None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due: float | None = None
        self._kicked = False
        self._closed: Ended | None = None
        self._epoll = select.epoll()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, max_connections)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._loop.add_reader(self._epoll.fileno(), self._on_ready)

    def __repr__(self) -> str:
        return f"CurlLoop({len(self._flying)} in flight)"

    def begin(self, easy: pycurl.Curl, on_end: Callable[[Ended], None]) -> None:
        """Run `easy` to its end, and tell `on_end`, once, how it ended; never from in here."""
        self._flying[easy] = on_end
        if self._closed is None:
            self._multi.add_handle(easy)
        else:
            self._loop.call_soon(self.cut, easy, self._closed)

    def cut(self, easy: pycurl.Curl, ended: Ended) -> None:
        """End a transfer in flight, and with it the connection that it was on; its `on_end` is told `ended`."""
        on_end = self._flying.pop(easy, None)
        if on_end is not None:
            if self._closed is None:
                self._multi.remove_handle(easy)
            on_end(ended)

    def close(self, ended: Ended) -> None:
        """End all that is in flight, or begins later, with `ended`, and close every connection."""
        if self._closed is not None:
            return
        for easy in list(self._flying):
            self.cut(easy, ended)
        self._closed = ended
        self._loop.remove_reader(self._epoll.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._due = None
        self._multi.close()
        self._epoll.close()

    def _on_socket(self, what: int, fd: int, _multi: pycurl.CurlMulti, _assigned: object) -> None:
        """Called by libcurl: it wants to watch `fd`, or no longer (CURLMOPT_SOCKETFUNCTION)."""
        try:
            if what == pycurl.POLL_REMOVE:
                self._epoll.unregister(fd)
            else:
                self._watch(fd, _TO_EPOLL.get(what, 0))
        except (OSError, ValueError):
            # Removed: libcurl closed it already, and the kernel took it out; or all is being closed. Watched: the
            # silence of this transfer will be noticed.
            return

    def _watch(self, fd: int, events: int) -> None:
        try:
            self._epoll.register(fd, events)
        except FileExistsError:
            self._epoll.modify(fd, events)

    def _on_timer(self, wait_ms: int) -> None:
        """Called by libcurl: it wants to be called in `wait_ms`, not from in here (CURLMOPT_TIMERFUNCTION)."""
        if wait_ms < 0:
            self._due = None
        elif wait_ms == 0:
            self._due = None
            if not self._kicked:  # once for all requests that begin in this turn of the loop
                self._kicked = True
                self._loop.call_soon(self._kick)
        else:
            self._due = self._loop.time() + wait_ms / 1000
            # It is put off with nearly every request. A timer that rings too early looks again, and costs less.
            if self._timer is None or self._timer.when() > self._due:
                self._set_timer(self._due)

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._due > self._loop.time():
            self._set_timer(self._due)
        else:
            self._due = None
            self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _kick(self) -> None:
        self._kicked = False
        self._act(pycurl.SOCKET_TIMEOUT, 0)

    def _on_ready(self) -> None:
        for fd, events in self._epoll.poll(0):
            mask = pycurl.CSELECT_IN if events & select.EPOLLIN else 0
            if events & select.EPOLLOUT:
                mask |= pycurl.CSELECT_OUT
            if events & _LOST:
                mask |= pycurl.CSELECT_ERR
            self._act(fd, mask)

    def _act(self, fd: int, mask: int) -> None:
        if self._closed is not None:
            return
        _, running = self._multi.socket_action(fd, mask)
        if running < len(self._flying):
            self._collect()

    def _collect(self) -> None:
        queued = 1
        while queued:
            queued, well, badly = self._multi.info_read()
            for easy in well:
                self.cut(easy, WELL)
            for easy, code, detail in badly:
                self.cut(easy, Ended(code, detail))
