"""A browser logs in with the token, gets a cookie that is not it, and is out when it, or the operator, says so."""

from __future__ import annotations

import asyncio
import contextlib
from http.cookies import SimpleCookie

import aiohttp
import pytest
from ring_fixtures import served_ring

from ringfeedd.config.listen import Listen
from ringfeedd.errors import ConfigError
from ringfeedd.web import token as tokens
from ringfeedd.web.access import Guard
from ringfeedd.web.server import HttpServer
from ringfeedd.web.session import LASTS_S, MOST_ENDED, Sessions
from ringfeedd.web.token import TokenFile

TOKEN, OTHER = "correct horse battery staple", "another horse battery staple"
HTML = {"Accept": "text/html,*/*;q=0.8"}


@contextlib.asynccontextmanager
async def browser(token, rings=()):
    """A server, and a client that keeps cookies; yields the client and the server's address."""
    server = HttpServer(lambda: rings, Listen("127.0.0.1", 0), token)
    address = await server.start()
    try:
        jar = aiohttp.CookieJar(unsafe=True)  # for an address in the place of a name
        async with aiohttp.ClientSession(cookie_jar=jar, headers=HTML) as session:
            yield session, address
    finally:
        await server.stop()


async def send(session, url: str, data=None, **headers: str):
    async with session.post(url, data=data, headers=headers, allow_redirects=False) as answer:
        return answer, await answer.text()


async def get(session, url: str) -> tuple[int, str]:
    async with session.get(url) as answer:
        return answer.status, await answer.text()


def test_a_browser_logs_in_reads_and_logs_out():
    async def story(served) -> None:
        async with browser(lambda: TOKEN, [served.service]) as (session, address):
            status, form = await get(session, address)
            assert status == 401
            assert '<form class="card login" method="post" action="login">' in form
            assert served.name not in form
            answer, page = await send(session, address + "login", {"token": OTHER})
            assert answer.status == 401
            assert "This is not the token." in page
            assert not answer.cookies
            answer, _ = await send(session, address + "login", {"token": f" {TOKEN}\n"})
            assert (answer.status, answer.headers["Location"]) == (303, "./")
            (cookie,) = answer.cookies.values()
            assert cookie["httponly"]
            assert (cookie["samesite"], cookie["path"], int(cookie["max-age"])) == ("Strict", "/", LASTS_S)
            assert TOKEN not in answer.headers["Set-Cookie"]
            status, page = await get(session, address)
            assert status == 200
            assert served.name in page
            assert "Log out" in page
            for path in ("status.json", "metrics", "live"):
                assert (await get(session, address + path))[0] == 200
            kept = cookie.value
            answer, _ = await send(session, address + "logout")
            assert answer.status == 303
            assert (await get(session, address))[0] == 401
            headers = {"Cookie": f"{cookie.key}={kept}"}  # what was copied from the browser is worth nothing now
            async with aiohttp.ClientSession() as thief, thief.get(address, headers=headers) as refused:
                assert refused.status == 401

    with served_ring() as served:
        asyncio.run(story(served))


def test_programs_get_a_sentence_and_no_form():
    async def story() -> None:
        async with browser(lambda: TOKEN) as (session, address), session.get(address, headers={"Accept": "*/*"}) as a:
            assert a.status == 401
            assert a.headers["WWW-Authenticate"] == "Bearer"
            assert (await a.text()).startswith("Send `Authorization: Bearer TOKEN`")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Origin": "http://localhost:9753", "Host": "localhost:9753"}, 303),
        ({"Origin": "https://localhost", "Host": "localhost"}, 303),  # behind a proxy with TLS
        ({"Origin": "http://evil.example", "Host": "localhost:9753"}, 403),
        ({"Origin": "null", "Host": "localhost:9753"}, 403),
        ({"Origin": "http://localhost:9754", "Host": "localhost:9753"}, 403),
        ({"Host": "evil.example"}, 403),
    ],
)
def test_a_form_of_another_site_is_refused(headers, status):
    async def story() -> None:
        async with browser(lambda: TOKEN) as (session, address):
            assert (await send(session, address + "login", {"token": TOKEN}, **headers))[0].status == status

    asyncio.run(story())


@pytest.mark.parametrize("token", [None, lambda: TOKEN], ids=["without", "with"])
def test_only_the_two_forms_accept_a_body(token):
    async def story() -> None:
        async with browser(token) as (session, address):
            for path in ("", "status.json", "live", "healthz", "metrics", "pictures/a/b.jpg", "login/x"):
                assert (await send(session, address + path, {"token": TOKEN}))[0].status == 405
            assert (await send(session, address + "login", {"token": TOKEN}))[0].status == (303 if token else 405)
            assert (await send(session, address + "logout"))[0].status == (303 if token else 405)

    asyncio.run(story())


@pytest.mark.parametrize("data", [None, {"token": ""}, {"other": TOKEN}, b"\xff\xfe", {"token": "x" * 30_000}])
def test_what_is_no_token_logs_nobody_in(data):
    async def story() -> None:
        async with browser(lambda: TOKEN) as (session, address):
            answer, _ = await send(session, address + "login", data)
            assert answer.status in (400, 401, 413)
            assert not answer.cookies

    asyncio.run(story())


FORM = "application/x-www-form-urlencoded"
TOKEN_FORM = b"token=" + TOKEN.replace(" ", "+").encode()


@pytest.mark.parametrize(
    ("path", "kind", "encoding", "body"),
    [
        ("login", f"{FORM}; charset=evil", "", TOKEN_FORM + b"x"),
        ("login", f"{FORM}; charset=zlib", "", TOKEN_FORM + b"x"),
        ("login", FORM, "", b"token=\xff\xed\xa0\x80%ff%00"),
        ("login", FORM, "", b"token=x&" * 100),
        ("login", FORM, "gzip", TOKEN_FORM),
        ("login", FORM, "deflate", TOKEN_FORM),
        ("login", "multipart/form-data", "", b"x"),
        ("login", f"multipart/form-data; boundary={'b' * 100}", "", b"x"),
        (
            "login",
            "multipart/form-data; boundary=x",
            "",
            b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
        ),
        ("login", "multipart/form-data; boundary=x", "", b"--x\r\nContent-Encoding: gzip\r\n\r\nabc\r\n--x--\r\n"),
        ("logout", "multipart/form-data", "gzip", b"x"),
        ("icon.svg", "", "gzip", b"x"),
    ],
    ids=[
        "no-charset",
        "no-text",
        "no-utf-8",
        "fields",
        "no-gzip",
        "no-deflate",
        "no-boundary",
        "boundary",
        "no-name",
        "part",
        "logout",
        "get",
    ],
)
def test_what_is_no_form_leaves_the_log_empty(path, kind, encoding, body, caplog):
    head = f"{'GET' if path == 'icon.svg' else 'POST'} /{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    head += f"Content-Length: {len(body)}\r\n" + (f"Content-Encoding: {encoding}\r\n" if encoding else "")

    async def story() -> bytes:
        async with browser(lambda: TOKEN) as (_, address):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(address.rstrip("/").rpartition(":")[2]))
            writer.write(head.encode() + b"\r\n" + body)
            return await reader.read()

    answer = asyncio.run(asyncio.wait_for(story(), 60))
    assert answer.split()[1] in ((b"400", b"401") if path == "login" else (b"200", b"303", b"400"))
    assert b"ringfeed-" not in answer
    assert caplog.records == []


# Sessions.


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_a_session_ends_by_time_or_new_token():
    clock = Clock()
    sessions = Sessions(clock)
    value = sessions.begin(TOKEN)
    assert sessions.good(TOKEN, value)
    assert Sessions(clock).good(TOKEN, value)  # a restart of the daemon ends none
    assert not sessions.good(OTHER, value)
    assert sessions.cookie(TOKEN) != sessions.cookie(OTHER)
    clock.now += LASTS_S + 1
    assert not sessions.good(TOKEN, value)


@pytest.mark.parametrize(
    "change", [lambda v: "9" + v, lambda v: v[:-1], lambda v: "", lambda v: ".", lambda v: "ü." + v]
)
def test_a_value_that_was_changed_is_worth_nothing(change):
    sessions = Sessions(Clock())
    assert not sessions.good(TOKEN, change(sessions.begin(TOKEN)))


def test_remembered_sessions_are_bounded_in_memory():
    """Sessions that were ended."""
    sessions = Sessions(Clock())
    values = [sessions.begin(TOKEN) for _ in range(MOST_ENDED + 5)]
    for value in values:
        sessions.end(TOKEN, value)
        sessions.end(TOKEN, "9.x.y")
    assert len(sessions._ended) == MOST_ENDED
    assert not any(sessions.good(TOKEN, value) for value in values[5:])


def test_a_cookie_has_a_name_that_http_allows():
    cookie = SimpleCookie()
    sessions = Sessions(Clock())
    cookie[sessions.cookie(TOKEN)] = sessions.begin(TOKEN)
    assert cookie.output(header="").strip().count(";") == 0


# The token's file.


def test_a_changed_token_file_applies_unless_invalid(tmp_path, caplog):
    """With a bad file, the old token stays in force."""
    caplog.set_level("INFO")
    clock, file = Clock(), tmp_path / "token"

    def write(text: str, mode: int = 0o600) -> None:
        fresh = tmp_path / "fresh"
        fresh.write_text(text)
        fresh.chmod(mode)
        fresh.rename(file)
        clock.now += tokens.LOOK_EVERY_S

    with pytest.raises(ConfigError):
        TokenFile(str(file), clock)
    write(TOKEN)
    token = TokenFile(str(file), clock)
    assert token() == TOKEN
    write(OTHER)
    assert token() == OTHER
    for text, mode, why in (("short", 0o600, "must hold one line"), (TOKEN, 0o644, "is not kept secret")):
        write(text, mode)
        assert [token() for _ in range(3)] == [OTHER] * 3
        (said,) = (record.getMessage() for record in caplog.records if why in record.getMessage())
        assert said.endswith("; the token that was read before it stays in force")
    file.unlink()
    clock.now += tokens.LOOK_EVERY_S
    assert token() == OTHER
    write(TOKEN)
    assert token() == TOKEN
    assert not any(secret in caplog.text for secret in (TOKEN, OTHER))


def test_a_new_token_logs_every_browser_out():
    current = [TOKEN]

    async def story() -> None:
        async with browser(lambda: current[0]) as (session, address):
            await send(session, address + "login", {"token": TOKEN})
            assert (await get(session, address))[0] == 200
            current[0] = OTHER
            assert (await get(session, address))[0] == 401

    asyncio.run(story())


def test_pixels_need_loopback_or_a_token():
    here, anywhere = Listen("127.0.0.1", 1), Listen("0.0.0.0", 1)
    assert [Guard(listen, token, "m").shows_data for listen in (here, anywhere) for token in (None, TOKEN)] == [
        True,
        True,
        False,
        True,
    ]
