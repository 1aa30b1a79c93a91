"""The status page's connections: few at a time, each for a short time, so that no client can use the daemon up.

The page shares its process with the loop that serves the rings. Here a connection is accepted only when there is room
for it, since every one takes a descriptor that the daemon may need; the others wait in the kernel, which costs nothing.
One connection carries one request. One that does not ask, or does not read, is closed when its time is over, or as soon
as another one waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

REQUEST_S: Final = 5.0
"""How long a client may take to send its request."""

ANSWER_S: Final = 10.0
"""How long it may take to read the answer."""

YIELD_S: Final = 0.5
"""A connection of this age makes room for one that waits."""

PAUSE_S: Final = 0.005
"""Between two connections: no client gets more of the daemon's time than 200 connections a second take."""

SCARCE_S: Final = 1.0
"""How long nothing is accepted after the system had no descriptor or memory for a connection."""

MOST_REQUEST_BYTES: Final = 1 << 16
BACKLOG: Final = 128

_SCARCE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Connection(asyncio.Protocol):
    """One client: hands everything to the protocol that understands it, and ends when its time is over."""

    def __init__(self, server: asyncio.Protocol, ended: Callable[[Connection], None]) -> None:
        """Prepare.

        Args:
            server: understands and answers the request.
            ended: called when the connection is closed.
        """
        self.server, self._ended = server, ended
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._received = 0
        self.began = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the request."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.server.connection_made(transport)
        self._allow(REQUEST_S)

    def data_received(self, data: bytes) -> None:
        """Hand on a part of the request, unless it is more than any request has."""
        self._received += len(data)
        if self._received > MOST_REQUEST_BYTES:
            self.abort()
        else:
            self.server.data_received(data)

    def eof_received(self) -> bool | None:
        """The client sends nothing more."""
        return self.server.eof_received()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self.server.pause_writing()

    def resume_writing(self) -> None:
        """It has read."""
        self.server.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if self._deadline is not None:
            self._deadline.cancel()
        self.server.connection_lost(exc)
        self._ended(self)

    def answering(self) -> None:
        """The request has come; from now on the client has to read."""
        self._allow(ANSWER_S)

    def abort(self) -> None:
        """Close it at once."""
        if self._transport is not None:
            self._transport.abort()

    def _allow(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self.abort)


class Connections:
    """Accepts connections on some sockets, at most ``most`` at a time."""

    def __init__(self, serve: Callable[[], asyncio.Protocol], most: int) -> None:
        """Accept nothing yet.

        Args:
            serve: makes the protocol that understands a connection's request.
        """
        self._serve, self._most = serve, most
        self._open: dict[asyncio.BaseProtocol, Connection] = {}  # by what serves it, the oldest first
        self._room = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sockets: list[socket.socket] = []

    def __len__(self) -> int:
        return len(self._open)

    def listen(self, sockets: Sequence[socket.socket]) -> None:
        """Accept from these sockets, which become this object's."""
        self._sockets = list(sockets)
        self._tasks = [asyncio.create_task(self._accept(each)) for each in sockets]

    async def close(self) -> None:
        """Accept no more; what is under way goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for each in self._sockets:
            each.close()

    def abort(self) -> None:
        """Close what is left."""
        for connection in list(self._open.values()):
            connection.abort()

    def answering(self, server: asyncio.BaseProtocol | None) -> None:
        """The request of the connection that this protocol serves has come."""
        if server is not None and (connection := self._open.get(server)) is not None:
            connection.answering()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._make_room()
            try:
                client, _ = await loop.sock_accept(listening)
            except OSError as error:  # the client is gone already, or the system is short of something
                await asyncio.sleep(SCARCE_S if error.errno in _SCARCE else PAUSE_S)
                continue
            connection = Connection(self._serve(), self._end)
            self._open[connection.server] = connection
            try:
                await loop.connect_accepted_socket(partial(_same, connection), client)
            except BaseException as error:
                self._end(connection)
                client.close()
                if not isinstance(error, OSError):
                    raise
            await asyncio.sleep(PAUSE_S)

    async def _make_room(self) -> None:
        """Wait until another connection may be accepted; the oldest one goes for it, once it had some time."""
        loop = asyncio.get_running_loop()
        while len(self._open) >= self._most:
            oldest = next(iter(self._open.values()))
            self._room.clear()
            if (left_s := oldest.began + YIELD_S - loop.time()) <= 0:
                oldest.abort()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), max(left_s, PAUSE_S))

    def _end(self, connection: Connection) -> None:
        self._open.pop(connection.server, None)
        self._room.set()


def _same(connection: Connection) -> Connection:
    return connection


async def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on every address of ``host``, at one port; 0: any that is free.

    Raises:
        OSError: an address is taken, or not this machine's.
    """
    loop = asyncio.get_running_loop()
    found: list[Any] = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            each = socket.socket(family, kind, protocol)
            sockets.append(each)
            each.setblocking(False)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            same_port = sockets[0].getsockname()[1] if len(sockets) > 1 else port
            each.bind((address[0], same_port, *address[2:]))
            each.listen(BACKLOG)
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets
