"""Pages of a listing: whatever a server answers is a listing or a sentence, never a traceback and never a hang."""

from __future__ import annotations

import asyncio
import json
import os

import msgspec
import pytest
from aiohttp import web
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ringfeedd.catalog.listing import build_catalog
from ringfeedd.catalog.templates import KeyTemplates
from ringfeedd.errors import StartError
from ringfeedd.storage import SourceError, StoreSettings, pages
from ringfeedd.storage.gcs import GcsSource
from ringfeedd.storage.pages import Page, Paging
from ringfeedd.storage.retry import Backoff

EXAMPLES = int(os.environ.get("RINGFEED_FUZZ_EXAMPLES", "40"))
"""By default the quick version; 10 minutes are some 5000."""

NAMES = ["p/images/1.jpg", "p/labels/1.png", "p/images/\ud800.jpg", "p/", "", "q/x", "p/images/" + "x" * 3000 + ".jpg"]
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text() | st.sampled_from(NAMES)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
ITEMS = st.fixed_dictionaries(
    {"name": st.sampled_from(NAMES) | JSON},
    optional={
        "size": st.integers(-5, 2**70) | st.integers(0, 2**64).map(str) | JSON,
        "generation": st.integers(0, 2**70).map(str) | JSON,
        "crc32c": st.sampled_from(["AAAAAA==", "AAAA", "ü"]) | JSON,
    },
)
PAGES = st.fixed_dictionaries(
    {}, optional={"items": st.lists(ITEMS | JSON, max_size=5) | JSON, "nextPageToken": st.sampled_from("abc") | JSON}
)
BODIES = st.binary(max_size=60) | (PAGES | JSON).map(lambda content: json.dumps(content).encode())


class Answering:
    """A server whose n-th answer is the n-th body, the last one for ever."""

    def __init__(self, bodies):
        self.bodies, self.requests = bodies, 0

    async def __aenter__(self):
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.answer)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self.runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self.runner.cleanup()

    async def answer(self, _request):
        body = self.bodies[min(self.requests, len(self.bodies) - 1)]
        self.requests += 1
        return web.Response(body=body, content_type="application/json")


def listed(*bodies):
    """The catalog that comes of these bodies, or the sentence; and the requests it took."""

    async def main():
        async with Answering(bodies) as server:
            quick = Backoff(max_attempts=2, base_s=0.0, max_s=0.0)
            settings = StoreSettings(concurrency=2)
            source = GcsSource("b", "p/", settings, api_root=server.url, bearer=None, backoff=quick)
            try:
                return await build_catalog(source, KeyTemplates.parse()), server.requests
            except StartError as error:
                return str(error), server.requests
            finally:
                await source.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(BODIES, min_size=1, max_size=4))
@example([b"[" * 100_000])
@example([b'{"items": [{"name": "p/images/1.jpg", "size": -1}]}'])
@example([b'{"items": [{"name": "p/images/1.jpg", "size": "18446744073709551616"}]}'])
@example([b'{"items": [{"name": "p/images/1.jpg", "crc32c": 7}]}'])
@example([b'{"items": [{"name": null}]}'])
@example([b'"\\ud800"'])
@example([b'{"\\ud800": 1, "items": [{"name": "\\ud800", "\\ud800": 2}]}'])
@example([b'{"items": {"name": "x"}, "nextPageToken": 7}'])
def test_every_server_answer_becomes_a_catalog_or_sentence(bodies):
    result, requests = listed(*bodies)
    assert requests < 100
    if isinstance(result, str):
        assert result
        assert "\n" not in result
        assert "Traceback" not in result
        assert len(result) < 2000
    else:
        assert len(result)


def test_a_circular_listing_ends_with_a_sentence():
    bodies = [json.dumps({"items": [{"name": "p/x"}], "nextPageToken": token}).encode() for token in "abcabc"]
    sentence, requests = listed(*bodies)
    assert "gives the same pages of its listing again and again" in sentence
    assert requests <= 2 * 5


def test_endless_empty_pages_end_with_a_sentence(monkeypatch):
    monkeypatch.setattr(pages, "MAX_EMPTY_PAGES", 20)
    paging = Paging("gs://b")
    with pytest.raises(SourceError, match="without objects"):
        for number in range(1000):
            paging.next_token(Page(next_page_token=str(number)))
    paging = Paging("gs://b")
    item = msgspec.convert({"items": [{"name": "x"}], "nextPageToken": "full"}, Page)
    for number in range(15):
        assert paging.next_token(Page(next_page_token=f"a{number}")) == f"a{number}"  # some empty pages are usual
    assert paging.next_token(item) == "full"
    for number in range(15):
        paging.next_token(Page(next_page_token=f"b{number}"))


def test_names_outside_the_prefix_are_not_its_objects():
    page = msgspec.convert({"items": [{"name": "p/1"}, {"name": "q/2"}, {"name": ""}]}, Page)
    assert [info.name for info in page.objects("p/")] == ["1"]
