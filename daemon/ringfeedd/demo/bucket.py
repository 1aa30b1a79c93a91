"""Fills a bucket, or a folder, with the demo's pairs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
from gcloud.aio.storage import Storage
from tqdm import tqdm

from ringfeedd.demo.errors import DemoError
from ringfeedd.demo.photographs import Photographs

if TYPE_CHECKING:
    from pathlib import Path

BUCKET = "demo-bucket"
PREFIX = "photos"
UPLOADS_IN_FLIGHT = 4
"""Pairs made and uploaded at the same time; the emulator answers one request at a time, and the rest make pictures."""

UPLOAD_TIMEOUT_S = 60


def fill_bucket(url: str, *, pairs: int, seed: int = 0, bucket: str = BUCKET, prefix: str = PREFIX) -> list[str]:
    """Makes the pairs, and uploads them through the server's API, with a progress bar.

    Args:
        url: where the emulator answers, without a trailing slash.
        pairs: how many.
        seed: of the pictures.
        bucket: an existing bucket.
        prefix: what the keys begin with, without a trailing slash.

    Returns:
        The ids of the pairs, in the order of their making.

    Raises:
        DemoError: an upload failed.
        StartError: the photographs are missing.
    """
    try:
        return asyncio.run(_upload(url, pairs, seed, bucket, prefix))
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise DemoError(f"uploading to {url} failed: {type(error).__name__} {error}") from error


def fill_folder(folder: Path, *, pairs: int, seed: int = 0) -> list[str]:
    """Makes the same pairs as `fill_bucket`, as files in a folder.

    Returns:
        The ids of the pairs, in the order of their making.
    """
    ids = []
    for pair in Photographs().pairs(pairs, seed):
        ids.append(pair.id)
        for key, content, _content_type in pair.objects():
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(content)
    return ids


async def _upload(url: str, pairs: int, seed: int, bucket: str, prefix: str) -> list[str]:
    photographs = Photographs()
    in_flight = asyncio.Semaphore(UPLOADS_IN_FLIGHT)
    async with aiohttp.ClientSession() as session:
        # api_root is our own emulator's address on this machine: no token, no TLS, as it is meant here.
        storage = Storage(session=session, api_root=url, api_is_dev=True)
        with tqdm(total=pairs, desc="filling the bucket", unit=" pairs", dynamic_ncols=True) as progress:

            async def make_and_upload(index: int) -> str:
                async with in_flight:
                    pair = await asyncio.to_thread(photographs.pair, index, seed)
                    for key, content, content_type in pair.objects():
                        await storage.upload(
                            bucket, f"{prefix}/{key}", content, content_type=content_type, timeout=UPLOAD_TIMEOUT_S
                        )
                progress.update()
                return pair.id

            return await asyncio.gather(*(make_and_upload(index) for index in range(pairs)))
