"""A compressed picture with its header read and nothing decoded yet: what it is, how large, which way up.

Pillow's JPEG and PNG readers are called by name, never its search over all formats: an object's first bytes decide, not
its extension, and no other reader (an EPS would start Ghostscript) can be reached from a bucket. That also leaves out
Pillow's own size warning, whose limit is one global of the process; ``max_pixels`` is checked here instead, before a
single pixel is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from ringfeedd.errors import BadPairError

JPEG_MAGIC: Final = b"\xff\xd8\xff"
PNG_MAGIC: Final = b"\x89PNG\r\n\x1a\n"

MAX_SIDE: Final = 65_535
"""Pixels: a JPEG's format allows no more, and a PNG of one pixel's width would need far more memory than its pixels."""

MAX_SCANS: Final = 100
"""Of a progressive JPEG. Encoders write some ten; a few bytes ask for one, and it costs a pass over all pixels."""

_START_OF_SCAN: Final = b"\xff\xda"

# What other first bytes tell the reader of the failure list; nothing is decided by them.
_OTHERS: Final = (
    (b"RIFF", "a WebP or other RIFF file"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\x00", "a TIFF"),
    (b"MM\x00*", "a TIFF"),
    (b"\x1f\x8b", "gzip data"),
    (b"%!PS", "PostScript"),
    (b"<", "HTML or XML, perhaps an error page that was stored as a picture"),
    (b"{", "JSON, perhaps an error message that was stored as a picture"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What an EXIF orientation asks for: perhaps width and height exchanged, then perhaps mirrored either way."""

    method: Image.Transpose
    swaps: bool
    mirrors_x: bool
    mirrors_y: bool


TURNS: Final = {
    2: Turn(Image.Transpose.FLIP_LEFT_RIGHT, swaps=False, mirrors_x=True, mirrors_y=False),
    3: Turn(Image.Transpose.ROTATE_180, swaps=False, mirrors_x=True, mirrors_y=True),
    4: Turn(Image.Transpose.FLIP_TOP_BOTTOM, swaps=False, mirrors_x=False, mirrors_y=True),
    5: Turn(Image.Transpose.TRANSPOSE, swaps=True, mirrors_x=False, mirrors_y=False),
    6: Turn(Image.Transpose.ROTATE_270, swaps=True, mirrors_x=True, mirrors_y=False),
    7: Turn(Image.Transpose.TRANSVERSE, swaps=True, mirrors_x=True, mirrors_y=True),
    8: Turn(Image.Transpose.ROTATE_90, swaps=True, mirrors_x=False, mirrors_y=True),
}
"""EXIF orientations that are not "as stored"; the methods are those of ``ImageOps.exif_transpose``."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One compressed picture, its header checked.

    Attributes:
        role: "image" or "label", for sentences.
        data: the whole object.
        file: Pillow's reader of it, nothing loaded; it belongs to one thread.
        turn: how it must be turned, None where it is taken as stored.
    """

    role: str
    data: bytes
    file: ImageFile
    turn: Turn | None

    @property
    def is_jpeg(self) -> bool:
        """Whether it is a JPEG; else it is a PNG."""
        return isinstance(self.file, JpegImageFile)

    @property
    def may_be_drafted(self) -> bool:
        """Whether it can be shrunk while it is decoded: a JPEG, but not a lossless one, which has nothing quantised."""
        return isinstance(self.file, JpegImageFile) and bool(self.file.quantization)

    @property
    def packing(self) -> str:
        """Pillow's name for how a PNG's values are packed, e.g. "L;2"; empty for a JPEG, and once it is loaded."""
        args = self.file.tile[0][3] if self.file.tile else None
        return args if isinstance(args, str) else ""

    @property
    def width(self) -> int:
        """Pixels across, once turned."""
        return self.file.height if self.turn and self.turn.swaps else self.file.width

    @property
    def height(self) -> int:
        """Pixels down, once turned."""
        return self.file.width if self.turn and self.turn.swaps else self.file.height


def open_picture(role: str, data: bytes, *, max_pixels: int, exif_orientation: bool = False) -> Picture:
    """The picture whose compressed bytes are ``data``.

    Raises:
        BadPairError: it is no JPEG or PNG ("unsupported"), its header cannot be read ("corrupt"), or it has more than
            ``max_pixels`` pixels, a side of more than `MAX_SIDE`, or more than `MAX_SCANS` scans ("too_large").
    """
    with as_bad_pair(role, "has a header that cannot be read"):
        if data.startswith(JPEG_MAGIC):
            file: ImageFile = JpegImageFile(io.BytesIO(data))
        elif data.startswith(PNG_MAGIC):
            file = PngImageFile(io.BytesIO(data))
        else:
            raise _neither_jpeg_nor_png(role, data)
    _refuse_size(role, file, max_pixels)
    _refuse_scans(role, file, data)
    turn = None
    if exif_orientation:
        with as_bad_pair(role, "has an EXIF orientation that cannot be read"):
            orientation = file.getexif().get(ExifTags.Base.Orientation)
            turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return Picture(role, data, file, turn)


@contextmanager
def as_bad_pair(role: str, what: str) -> Iterator[None]:
    """Turn whatever Pillow raises over bad bytes into a sentence.

    Pillow's readers answer bad bytes with nearly any exception: OSError, SyntaxError, ValueError, struct.error,
    zlib.error, KeyError, AssertionError and more. So every one counts as the picture's fault here, except a lack of
    memory, which would fail the next pair as well.
    """
    try:
        yield
    except (BadPairError, MemoryError):
        raise
    except Exception as error:
        told = str(error) or type(error).__name__
        raise BadPairError(f"the {role} {what} ({told}); store it again", cause="corrupt") from error


def _refuse_size(role: str, file: ImageFile, max_pixels: int) -> None:
    size = f"the {role} has {file.height}x{file.width} pixels"
    if file.width * file.height > max_pixels:
        raise BadPairError(
            f"{size}, which is more than max_pixels = {max_pixels}; shrink it in the bucket or raise max_pixels",
            cause="too_large",
        )
    if max(file.size) > MAX_SIDE:
        raise BadPairError(f"{size}; a side of more than {MAX_SIDE} is not taken: cut it up", cause="too_large")


def _refuse_scans(role: str, file: ImageFile, data: bytes) -> None:
    is_progressive = isinstance(file, JpegImageFile) and "progressive" in file.info
    scans = data.count(_START_OF_SCAN) if is_progressive else 1
    if scans > MAX_SCANS:
        raise BadPairError(
            f"the {role} is a progressive JPEG of {scans} scans, and more than {MAX_SCANS} are not taken: each costs a "
            f"pass over all its pixels; store it again",
            cause="too_large",
        )


def _neither_jpeg_nor_png(role: str, data: bytes) -> BadPairError:
    if not data:
        return BadPairError(f"the {role} is an empty object; store it again", cause="corrupt")
    found = next((name for magic, name in _OTHERS if data.startswith(magic)), f"starting with the bytes {data[:8]!r}")
    return BadPairError(
        f"the {role} is neither JPEG nor PNG but {found}; store it as one of these (the extension does not matter)",
        cause="unsupported",
    )
