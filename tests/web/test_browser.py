"""The status page in a real browser: it moves, it is true, and it fits."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from browser import errors, look_like, open_browser
from house import Daemon, trainer, wait_until, write_objects
from PIL import Image

from ringfeedd.web.access import Listen
from ringfeedd.web.server import HttpServer

TOKEN = "correct horse battery staple"
PAIRS = 60
SOON_S = 20.0

TRAINER = """
import sys, time, ringfeed
with ringfeed.attach(sys.argv[1], batch_size=2, group=sys.argv[2], start="now") as reader:
    while True:
        for batch in reader:
            time.sleep(0.05)
"""


def colour(number: int) -> tuple[int, int, int]:
    return (4 * number, 255 - 4 * number, 128)


def flat_pairs() -> dict[str, bytes]:
    """Pairs that each have a colour of their own; a third of every label is class 1, the rest class 0."""
    objects = {}
    for number in range(PAIRS):
        for key, picture in (
            (f"images/{number:03d}.jpg", Image.new("RGB", (48, 48), colour(number))),
            (f"labels/{number:03d}.png", Image.new("L", (48, 48), 0)),
        ):
            picture.paste(1 if picture.mode == "L" else colour(number), (0, 0, 16, 48))
            file = io.BytesIO()
            picture.save(file, "JPEG" if picture.mode == "RGB" else "PNG", **({"quality": 95} if "jpg" in key else {}))
            objects[key] = file.getvalue()
    objects["images/bad.jpg"] = b"no picture at all, and its id is " + b"x" * 10
    objects["labels/bad.png"] = objects["labels/000.png"]
    return objects


@pytest.fixture(scope="module")
def browser():
    with open_browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def address(browser, tmp_path_factory):  # after the browser, so that nothing is started where there is none
    ring = f"t{uuid.uuid4().hex[:10]}"
    folder = write_objects(tmp_path_factory.mktemp("pairs"), flat_pairs())
    arguments = ("--slots", "16", "--size", "48x48", "--label-mode", "index", "--max-failed", "1", "--workers", "1")
    with Daemon(str(folder), *arguments, "--http", "127.0.0.1:0", ring=ring) as daemon:
        (said,) = (line for line in daemon.output.lines if line.startswith("status page: "))
        yield said.split()[-1]


@pytest.fixture(autouse=True)
def _quiet_console(browser):
    errors(browser)
    yield
    assert errors(browser) == []


@contextlib.contextmanager
def training(address: str, group: str) -> Iterator[Callable[[], None]]:
    """A trainer of this group; yields what kills it."""
    ring = ring_name(address)
    process = trainer(TRAINER, ring, group)

    def kill() -> None:
        process.kill()
        process.communicate()

    try:
        yield kill
    finally:
        kill()


def ring_name(address: str) -> str:
    import urllib.request  # noqa: PLC0415

    with urllib.request.urlopen(address + "status.json", timeout=20) as answer:
        (name,) = json.loads(answer.read())
    return name


def text(browser, selector: str = "body") -> str:
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((node) => node.textContent).join('\\n')", selector
    )


def turn(browser) -> float:
    return float(browser.execute_script("return document.querySelector('.wheel').dataset.turn"))


def test_a_live_ring_moves_without_being_loaded_again(browser, address):
    with training(address, "moves"):
        browser.get(address)
        browser.execute_script("window.same = true")
        wait_until(lambda: "moves" in text(browser, "td"), SOON_S)
        seen = set()
        wait_until(lambda: seen.add(turn(browser)) or len(seen) >= 3, SOON_S)
        assert len(browser.find_elements("css selector", ".cursor")) == 1
        wait_until(lambda: "reads" in text(browser, "td .tag"), SOON_S)
        wait_until(lambda: browser.find_elements("css selector", "#plots .line[d^=M]"), SOON_S)  # two points
        assert browser.execute_script("return window.same")


def test_a_killed_trainer_disappears_within_three_seconds(browser, address):
    with training(address, "killed") as kill:
        browser.get(address)
        wait_until(lambda: "killed" in text(browser, "td"), SOON_S)
        kill()
        began = time.monotonic()
        wait_until(lambda: "killed" not in text(browser, "td"), SOON_S)
        assert time.monotonic() - began < 3


FIGURES = """
const canvas = document.createElement("canvas");
canvas.width = canvas.height = 48;
const context = canvas.getContext("2d", { willReadFrequently: true });
const at = (image, x) => {
    context.drawImage(image, 0, 0, 48, 48);
    return [...context.getImageData(x, 24, 1, 1).data.slice(0, 3)];
};
return [...document.querySelectorAll("figure")].map((figure) => {
    const [plain, overlaid] = figure.querySelectorAll("img");
    const [id, place] = ["b", "span"].map((part) => figure.querySelector(`figcaption ${part}`).textContent);
    if (!plain.naturalWidth || !overlaid.naturalWidth) return null;
    return [id, place, at(plain, 8), at(plain, 40), at(overlaid, 8), at(overlaid, 40)];
}).filter((shown) => shown);
"""
"""Of each picture that is seen: its id, place, and colours where its label is of class 1 and 0."""


def apart(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


def shown_pairs(browser) -> list[str]:
    """The ids of the pictures that are seen, each of which has been compared with the pair of that id."""
    figures = browser.execute_script(FIGURES)
    for pair_id, _, *plain, labelled, clear in figures:
        expected = colour(int(pair_id))
        assert all(apart(one, expected) <= 18 for one in plain), pair_id
        assert apart(labelled, expected) > 30
        assert apart(clear, expected) <= 18
    places = [int(place.split(" · ")[1]) for _, place, *_ in figures]
    assert len(set(places)) == len(places)
    return [pair_id for pair_id, *_ in figures]


def test_the_pictures_are_those_in_the_ring(browser, address):
    browser.get(address)
    wait_until(lambda: len(shown_pairs(browser)) == 9, SOON_S)
    with training(address, "pictured"):  # and no picture is ever seen above another pair's id
        seen: set[str] = set()
        wait_until(lambda: seen.update(shown_pairs(browser)) or len(seen) > 20, 2 * SOON_S)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_all_without_scrolling_sideways(browser, address, scheme):
    with training(address, "a-group-with-a-name-that-is-far-too-long-for-any-phone-" + "x" * 60):
        look_like(browser, width=400, scheme=scheme)
        try:
            browser.get(address)
            wait_until(lambda: "far-too-long" in text(browser, "td"), SOON_S)
            wait_until(lambda: "Failed pairs" in text(browser, "h2"), SOON_S)
            browser.execute_script("document.querySelector('details').open = true")
            wide, shown = browser.execute_script(
                "const page = document.documentElement; return [page.scrollWidth, page.clientWidth]"
            )
            assert wide <= shown == 400
            assert not browser.find_element("css selector", "thead").is_displayed()  # readers are cards
            background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, background[4:-1].split(","))) > 380) == (scheme == "light")
        finally:
            look_like(browser, width=1280)


def test_without_scripts_the_page_shows_the_same(browser, address):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        with training(address, "unscripted"):
            browser.get(address)
            wait_until(lambda: "unscripted" in browser.page_source, SOON_S)  # it loads itself again
            page = browser.page_source
            for part in ('class="wheel"', 'id="plots"', "<figure id=", "Readers", "Failed pairs", "Details", "seed 0"):
                assert part in page
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


# A page of its own, with a token.


@contextlib.contextmanager
def served(token: str | None) -> Iterator[tuple[str, Callable[[], None]]]:
    """A page without rings; yields its address, and what stops it."""
    loop = asyncio.new_event_loop()
    server = HttpServer(list, Listen("127.0.0.1", 0), (lambda: token) if token else None)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    stopped = []

    def stop() -> None:
        if not stopped:
            stopped.append(asyncio.run_coroutine_threadsafe(server.stop(), loop).result(20))

    try:
        yield asyncio.run_coroutine_threadsafe(server.start(), loop).result(20), stop
        stop()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def submit(browser, token: str) -> None:
    browser.find_element("css selector", "input[type=password]").send_keys(token)
    browser.find_element("css selector", "button").click()


def test_a_browser_logs_in_and_out(browser):
    with served(TOKEN) as (address, _):
        browser.get(address)
        submit(browser, "not the token at all")
        wait_until(lambda: "This is not the token." in text(browser), SOON_S)
        submit(browser, TOKEN)
        wait_until(lambda: "The daemon is starting" in text(browser), SOON_S)
        assert browser.execute_script("return document.cookie") == ""  # no script sees the session
        browser.get(address)
        assert "The daemon is starting" in text(browser)
        browser.find_element("css selector", "header button").click()
        wait_until(lambda: browser.find_elements("css selector", "input[type=password]"), SOON_S)
        browser.get(address)
        assert browser.find_elements("css selector", "input[type=password]")
    assert all("401" in said for said in errors(browser))


def test_a_page_whose_daemon_has_gone_says_so(browser):
    with served(None) as (address, stop):
        browser.get(address)
        assert text(browser, "#notice") == ""
        stop()
        wait_until(lambda: "No answer since" in text(browser, "#notice"), SOON_S)
    browser.get("about:blank")
    assert all("ERR_CONNECTION_REFUSED" in said for said in errors(browser))
