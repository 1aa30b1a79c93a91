"""A worker that says of every pair at once that it lies in its slot. Started by the pool in place of the real one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from ringfeedd.catalog.catalog import Pair
from ringfeedd.decode.pair import Decoded
from ringfeedd.fetch.client import StoreClient
from ringfeedd.fetch.download import OnFetched, PairDownload
from ringfeedd.fetch.policy import Fetched
from ringfeedd.worker import worker

_NOTHING = Fetched(b"", b"")
_SIZES = Decoded(image_height=1, image_width=1, label_height=1, label_width=1, size_mismatch=False)


class _NoDownload(PairDownload):
    """A pair that is there at the next turn of the loop."""

    def __init__(self, client: StoreClient, pair: Pair, on_end: OnFetched) -> None:
        super().__init__(client, pair, on_end)
        self._handle = asyncio.get_running_loop().call_soon(on_end, _NOTHING)

    def cancel(self) -> None:
        self._handle.cancel()


class _NoClient(StoreClient):
    """Sends no request."""

    def __init__(self, *arguments: Any, feed: Callable[[], bool], **options: Any) -> None:  # noqa: ANN401  # passed on
        super().__init__(*arguments, feed=feed, **options)
        self._begin_next = feed

    def fetch(self, pair: Pair, on_end: OnFetched) -> PairDownload:
        return _NoDownload(self, pair, on_end)

    def pump(self) -> None:
        while self._begin_next():
            pass


def _decode(*_: object) -> Decoded:
    return _SIZES


if __name__ == "__main__":
    worker.main(int(sys.argv[1]), make_client=_NoClient, decode=_decode)
