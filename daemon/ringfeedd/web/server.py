"""The status page, its JSON, metrics and health check over HTTP: read-only, for this machine unless asked otherwise."""

from __future__ import annotations

import errno
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qs

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from ringfeedd.config.listen import Listen
from ringfeedd.errors import StartError
from ringfeedd.system.work import Work
from ringfeedd.web.access import Guard
from ringfeedd.web.connections import Connections, bind
from ringfeedd.web.metrics import CONTENT_TYPE, metrics_text
from ringfeedd.web.page.document import ICON, POLICY, login_page
from ringfeedd.web.session import LASTS_S, Sessions
from ringfeedd.web.snapshot import Watched, problems
from ringfeedd.web.watch import Watch

SHUTDOWN_S: Final = 0.5
"""How long a stop waits for answers that are under way."""

PUBLIC: Final = frozenset({"/healthz", "/icon.svg"})
"""Answers without anything of the data, which a probe gets without a token."""

FORMS: Final = frozenset({"/login", "/logout"})
"""Where a browser sends the forms with which it logs in and out."""

FORM_TYPE: Final = "application/x-www-form-urlencoded"
MOST_FORM_BYTES: Final = 1 << 14
MOST_FORM_FIELDS: Final = 8

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # to others none; a form of ours is known by its Origin
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Connection": "close",  # one connection carries one request
}

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


_OF_CLIENTS: Final = (HttpProcessingError, web.RequestPayloadError)
"""What aiohttp raises for a request that is no HTTP, or whose body is not what its headers say."""


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record of aiohttp's tells of the daemon: clients that send no HTTP must not fill its log."""
    return record.exc_info is None or not isinstance(record.exc_info[1], _OF_CLIENTS)


_REQUESTS: Final = logging.getLogger(f"{__name__}.requests")
_REQUESTS.addFilter(_is_ours)


class HttpServer:
    """Serves the rings' state until `stop`."""

    def __init__(
        self,
        rings: Callable[[], Sequence[Watched]],
        listen: Listen,
        token: Callable[[], str] | None,
        *,
        most_connections: int = 32,
        work: Callable[[], Work] = Work,
    ) -> None:
        """Prepare.

        Args:
            rings: those in service at the moment of a request.
            token: says what a request has to bring now; None for nothing.
            most_connections: that are open at a time.
            work: what the daemon's workers have done, at the moment of a request.
        """
        self._listen, self._token, self._work = listen, token, work
        self._machine = socket.gethostname()
        self._sessions = Sessions()
        self._watch = Watch(rings, self._machine, pictures=self._guard().shows_data)
        application = web.Application(middlewares=[self._check], client_max_size=MOST_FORM_BYTES)
        application.on_response_prepare.append(_protect)
        self._most_connections = most_connections
        application.router.add_get("/", self._page)
        application.router.add_get("/live", self._live)
        application.router.add_get("/pictures/{ring}/{file}", self._picture)
        application.router.add_get("/icon.svg", self._icon)
        application.router.add_get("/status.json", self._status)
        application.router.add_get("/errors.json", self._errors)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._health)
        application.router.add_post("/login", self._login)
        application.router.add_post("/logout", self._logout)
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
        self._watch.start()
        return self._listen.url(port)

    async def stop(self) -> None:
        """Close every connection."""
        await self._connections.close()
        await self._runner.cleanup()
        self._connections.abort()
        await self._watch.stop()

    def set_token(self, token: Callable[[], str] | None) -> None:
        """Ask for another token from the next request on; None: for none."""
        self._token = token

    def _guard(self) -> Guard:
        return Guard(self._listen, self._token() if self._token else None, self._machine)

    @web.middleware
    async def _check(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        self._connections.answering(request.protocol)
        headers, guard = request.headers, self._guard()
        refusal = guard.refuse(
            request.method,
            headers.get("Host"),
            headers.get("Authorization"),
            public=request.path in PUBLIC,
            session=bool(self._session(request)),
            origin=headers.get("Origin"),
            form=request.path in FORMS,
        )
        if refusal is None:
            return await handler(request)
        if refusal.status is HTTPStatus.UNAUTHORIZED and "text/html" in headers.get("Accept", ""):
            page = login_page(self._machine, wrong=False)
            return web.Response(status=refusal.status, text=page, content_type="text/html")
        extra = {401: {"WWW-Authenticate": "Bearer"}, 405: {"Allow": "GET, HEAD"}}.get(refusal.status, {})
        return web.Response(status=refusal.status, text=f"{refusal.sentence}\n", headers=extra)

    # Logging in and out.

    def _session(self, request: web.Request) -> str:
        """The value of a cookie whose session is good; empty where there is none."""
        if self._token is None:
            return ""
        token = self._token()
        value = request.cookies.get(self._sessions.cookie(token), "")
        return value if self._sessions.good(token, value) else ""

    async def _login(self, request: web.Request) -> web.Response:
        sent = await _sent_token(request)
        token = self._token() if self._token else ""
        if not self._guard().opens(sent.strip()):
            page = login_page(self._machine, wrong=True)
            return web.Response(status=HTTPStatus.UNAUTHORIZED, text=page, content_type="text/html")
        answer = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "./"})
        answer.set_cookie(
            self._sessions.cookie(token),
            self._sessions.begin(token),
            max_age=LASTS_S,
            httponly=True,
            samesite="Strict",
        )
        return answer

    async def _logout(self, request: web.Request) -> web.Response:
        answer = web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": "./"})
        if self._token is not None and (session := self._session(request)):
            token = self._token()
            self._sessions.end(token, session)
            answer.del_cookie(self._sessions.cookie(token), httponly=True, samesite="Strict")
        return answer

    # What there is to read.

    async def _page(self, request: web.Request) -> web.Response:
        text = await self._watch.page(request.query.get("ring", ""), logged_in=bool(self._session(request)))
        return web.Response(text=text, content_type="text/html")

    async def _live(self, request: web.Request) -> web.Response:
        ring, points = request.query.get("ring", ""), request.query.get("points", "")
        text = await self._watch.live(ring, logged_in=bool(self._session(request)), points=points)
        return web.Response(text=text, content_type="text/html")

    async def _picture(self, request: web.Request) -> web.Response:
        key = request.match_info["file"].removesuffix(".jpg")
        plain = key.endswith("-plain")
        data = self._watch.gallery.file(request.match_info["ring"], key.removesuffix("-plain"), plain=plain)
        if data is None:
            raise web.HTTPNotFound(text="This picture is not kept any more.\n")
        return web.Response(body=data, content_type="image/jpeg")

    async def _icon(self, _: web.Request) -> web.Response:
        return web.Response(text=ICON, content_type="image/svg+xml")

    async def _status(self, _: web.Request) -> web.Response:
        views = self._watch.views()
        return _json({view.name: view.status.as_json() if view.status else None for view in views})

    async def _errors(self, _: web.Request) -> web.Response:
        return _json({view.name: view.failed.as_json() for view in self._watch.views()})

    async def _metrics(self, _: web.Request) -> web.Response:
        text = metrics_text(self._watch.views(), self._work())
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _health(self, _: web.Request) -> web.Response:
        found = problems(self._watch.views())
        return web.Response(status=503 if found else 200, text="".join(f"{each}\n" for each in found or ["ok"]))


async def _sent_token(request: web.Request) -> str:
    """The token in a form; empty where none was sent. Whatever a client calls a form costs a look at it."""
    if request.content_type != FORM_TYPE:
        return ""
    try:
        fields = parse_qs((await request.read()).decode(errors="replace"), max_num_fields=MOST_FORM_FIELDS)
    except (web.RequestPayloadError, ValueError):  # the body is not what its headers say; there are too many fields
        return ""
    return fields.get("token", [""])[0]


async def _protect(_: web.Request, response: web.StreamResponse) -> None:
    response.force_close()
    response.headers.update(HEADERS)
    response.headers.pop("Server", None)


def _json(facts: dict[str, Any]) -> web.Response:
    return web.json_response(facts, dumps=lambda value: json.dumps(value, indent=1))
