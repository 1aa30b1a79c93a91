"""The status page, its JSON, metrics and health check over HTTP: read-only, for this machine unless asked otherwise."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ringfeedd.errors import ConfigError, StartError
from ringfeedd.web.access import Guard, Listen
from ringfeedd.web.connections import Connections, bind
from ringfeedd.web.metrics import CONTENT_TYPE, metrics_text
from ringfeedd.web.page import POLICY, status_page
from ringfeedd.web.snapshot import RingView, Watched, ailments, look

LEAST_TOKEN_CHARACTERS: Final = 16
MOST_TOKEN_BYTES: Final = 4096
SHUTDOWN_S: Final = 0.5
"""How long a stop waits for answers that are under way."""

LOOK_EVERY_S: Final = 0.1

PUBLIC: Final = frozenset({"/healthz"})
"""Answers without anything of the data, which a probe gets without a token."""

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Connection": "close",  # one connection carries one request
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record of aiohttp's tells of the daemon: clients that send no HTTP must not fill its log."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_REQUESTS: Final = logging.getLogger(f"{__name__}.requests")
_REQUESTS.addFilter(_is_ours)


class HttpServer:
    """Serves the rings' state until `stop`."""

    def __init__(
        self, rings: Callable[[], Sequence[Watched]], listen: Listen, token: str | None, *, most_connections: int = 32
    ) -> None:
        """Prepare.

        Args:
            rings: those in service at the moment of a request.
            token: what a request has to bring as a bearer; None for none.
            most_connections: that are open at a time.
        """
        self._rings = rings
        self._listen = listen
        self._machine = socket.gethostname()
        self._guard = Guard(listen, token, self._machine)
        application = web.Application(middlewares=[self._check])
        application.on_response_prepare.append(_protect)
        self._most_connections = most_connections
        self._looked_at = -LOOK_EVERY_S
        self._views_then: list[RingView] = []
        application.router.add_get("/", self._page)
        application.router.add_get("/status.json", self._status)
        application.router.add_get("/errors.json", self._errors)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._health)
        self._runner = web.AppRunner(application, access_log=None, logger=_REQUESTS, shutdown_timeout=SHUTDOWN_S)

    async def start(self) -> str:
        """Listen; returns the page's address.

        Raises:
            StartError: the address is taken, or not this machine's.
        """
        await self._runner.setup()
        assert self._runner.server is not None
        self._connections = Connections(self._runner.server, self._most_connections)
        try:
            sockets = await bind(self._listen.host, self._listen.port)
        except OSError as error:
            await self._runner.cleanup()
            where = f"{self._listen.host}:{self._listen.port}"
            if error.errno == errno.EADDRINUSE:
                raise StartError(
                    f"the status page's address {where} is taken, perhaps by another daemon; choose another port with "
                    f"--http HOST:PORT, or --http off"
                ) from error
            raise StartError(
                f"could not serve the status page at {where}: {error.strerror or error}; give an address of this "
                f"machine with --http HOST:PORT, or --http off"
            ) from error
        port = sockets[0].getsockname()[1]
        self._connections.listen(sockets)
        return self._listen.url(port)

    async def stop(self) -> None:
        """Close every connection."""
        await self._connections.close()
        await self._runner.cleanup()
        self._connections.abort()

    def _views(self) -> list[RingView]:
        """The rings as they were a moment ago at most: many requests cost the daemon no more looks than a few."""
        now = time.monotonic()
        if now - self._looked_at >= LOOK_EVERY_S:
            self._looked_at, self._views_then = now, [look(ring) for ring in self._rings()]
        return self._views_then

    @web.middleware
    async def _check(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        self._connections.answering(request.protocol)
        headers = request.headers
        refusal = self._guard.refuse(
            request.method, headers.get("Host"), headers.get("Authorization"), public=request.path in PUBLIC
        )
        if refusal is None:
            return await handler(request)
        extra = {401: {"WWW-Authenticate": "Bearer"}, 405: {"Allow": "GET, HEAD"}}.get(refusal.status, {})
        return web.Response(status=refusal.status, text=f"{refusal.sentence}\n", headers=extra)

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(text=status_page(self._views(), self._machine), content_type="text/html")

    async def _status(self, _: web.Request) -> web.Response:
        return _json({view.name: view.status.as_json() if view.status else None for view in self._views()})

    async def _errors(self, _: web.Request) -> web.Response:
        return _json({view.name: view.failed.as_json() for view in self._views()})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=metrics_text(self._views()), headers={"Content-Type": CONTENT_TYPE})

    async def _health(self, _: web.Request) -> web.Response:
        found = ailments(self._views())
        return web.Response(status=503 if found else 200, text="".join(f"{each}\n" for each in found or ["ok"]))


async def _protect(_: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers.update(HEADERS)
    response.headers.pop("Server", None)


def _json(facts: dict[str, Any]) -> web.Response:
    return web.json_response(facts, dumps=lambda value: json.dumps(value, indent=1))


def read_token(path: str) -> str:
    """The token that requests have to bring.

    Raises:
        ConfigError: the file cannot be read, others can read it, or what is in it is no token.
    """
    file = Path(path)
    try:
        with file.open("rb") as opened:
            facts, text = os.fstat(opened.fileno()), opened.read(MOST_TOKEN_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"http_token_file: could not read {file}: {error.strerror}") from error
    if facts.st_mode & stat.S_IRWXO or facts.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            f"http_token_file: {file} is not kept secret (mode {stat.S_IMODE(facts.st_mode):04o}, owner "
            f"{facts.st_uid}); it must be this user's or root's, and closed to others: `chmod o= {file}`"
        )
    token = text.decode("ascii", errors="replace").strip()
    if not LEAST_TOKEN_CHARACTERS <= len(token) < MOST_TOKEN_BYTES or not token.isascii() or not token.isprintable():
        raise ConfigError(
            f"http_token_file: {file} must hold one line of at least {LEAST_TOKEN_CHARACTERS} printable ASCII "
            f"characters; make one with `openssl rand -hex 32`"
        )
    return token
