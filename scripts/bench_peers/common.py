"""What the peers' scripts share: where objects lie, fetching one by a kept-open connection, decoding a whole batch."""

from __future__ import annotations

import os
import threading
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import urllib3

from ringfeedd.bench.codecs import DECODERS
from ringfeedd.bench.contender import Task

CONCURRENCY = 128
"""Objects (or pairs) that are downloaded at a time, as in the snippet."""

Entry = dict[str, Any]


def names(entry: Entry) -> tuple[str, str]:
    """The names of a pair's two objects."""
    return f"images/{entry['id']}.jpg", f"labels/{entry['id']}.png"


def urls(task: Task, entry: Entry) -> tuple[str, str]:
    """The plain addresses of a pair's two objects."""
    image, label = names(entry)
    return f"{task.url}/{task.bucket}/{image}", f"{task.url}/{task.bucket}/{label}"


_THREAD = threading.local()


def fetch(task: Task, entry: Entry) -> tuple[bytes, bytes]:
    """Both objects, one after the other, on this thread's own connection: urllib3, as most programs use it at best."""
    pool = getattr(_THREAD, "pool", None)
    if pool is None:
        address = urlsplit(task.url)
        if address.scheme == "https":
            pool = urllib3.HTTPSConnectionPool(address.hostname, address.port, ca_certs=os.environ["SSL_CERT_FILE"])
        else:
            pool = urllib3.HTTPConnectionPool(address.hostname, address.port)
        _THREAD.pool = pool
    image, label = (pool.request("GET", f"/{task.bucket}/{name}") for name in names(entry))
    if image.status != 200 or label.status != 200:
        raise RuntimeError(f"{entry['id']}: HTTP {image.status} and {label.status}")
    return image.data, label.data


def decode_pair(task: Task, image: bytes, label: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(height, width, 3) and (height, width), uint8, of their own."""
    decode_image, decode_label = DECODERS[task.settings["codec"]]
    image_out = np.empty((task.height, task.width, 3), np.uint8)
    label_out = np.empty((task.height, task.width), np.uint8)
    decode_image(image, image_out)
    decode_label(label, label_out)
    return image_out, label_out


def decode_batch(task: Task, pairs: list[tuple[bytes, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """A whole batch, each picture straight into its place: no second copy to put it together."""
    decode_image, decode_label = DECODERS[task.settings["codec"]]
    image_out = np.empty((len(pairs), task.height, task.width, 3), np.uint8)
    label_out = np.empty((len(pairs), task.height, task.width), np.uint8)
    for place, (image, label) in enumerate(pairs):
        decode_image(image, image_out[place])
        decode_label(label, label_out[place])
    return image_out, label_out
