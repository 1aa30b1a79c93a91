"""How much memory a worker may use besides the rings, and the kernel's limit that holds it to that.

A picture's header is checked before its pixels are decoded, so ``max_pixels`` already bounds what a decode should need.
This is for what should not happen: a codec that allocates without end costs its pair, and not the machine.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ringfeedd.decode.spec import MAX_SIDE, DecodeSpec

DECODED_BYTES_PER_PIXEL: Final = 20
"""What a decode holds for each pixel of `max_pixels`, with some to spare: at most 12 were seen, for PNGs that are
converted and turned, and 8 for the coefficients of a progressive JPEG."""

ROW_BYTES_PER_PIXEL: Final = 16
"""What it holds for each pixel of a row: the image in its last size, and copies on the way into the row."""

OTHER_BYTES: Final = 1 << 30
"""Compressed pairs that wait, Python itself, what malloc keeps, the threads' stacks."""

_PASS_BYTES_PER_PIXEL: Final = 4
"""Pillow scales across first: a picture on the way is as wide as the row, and still as high as it was."""


def decode_bytes(spec: DecodeSpec) -> int:
    """The most that decoding one pair may need, in bytes."""
    row = spec.height * spec.width
    on_the_way = spec.width * min(spec.max_pixels, MAX_SIDE)
    return DECODED_BYTES_PER_PIXEL * spec.max_pixels + ROW_BYTES_PER_PIXEL * row + _PASS_BYTES_PER_PIXEL * on_the_way


def worker_bytes(specs: Iterable[DecodeSpec]) -> int:
    """The most that a worker may need besides the rings it serves, in bytes; it decodes one pair at a time."""
    return max(decode_bytes(spec) for spec in specs) + OTHER_BYTES


def limit_own_memory(allowed: int) -> None:
    """Have the kernel refuse this process more than ``allowed`` bytes of memory beyond what it has by now.

    That is RLIMIT_DATA: private writable memory, from malloc or mapped. RLIMIT_AS would count the rings as well, which
    are as large as the machine, and what glibc only sets aside. A limit that was there before is never raised.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = private_bytes() + allowed
    for other in (soft, hard):
        if other != resource.RLIM_INFINITY:
            wanted = min(wanted, other)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))


def private_bytes() -> int:
    """What the kernel counts against RLIMIT_DATA for this process now; 0 where it does not tell."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0
