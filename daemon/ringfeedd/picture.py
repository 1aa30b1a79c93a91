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
            ``max_pixels`` pixels ("too_large").
    """
    with as_bad_pair(role, "has a header that cannot be read"):
        if data.startswith(JPEG_MAGIC):
            file: ImageFile = JpegImageFile(io.BytesIO(data))
        elif data.startswith(PNG_MAGIC):
            file = PngImageFile(io.BytesIO(data))
        else:
            raise _neither_jpeg_nor_png(role, data)
    if file.width * file.height > max_pixels:
        raise BadPairError(
            f"the {role} has {file.height}x{file.width} pixels, which is more than max_pixels = {max_pixels}; "
            f"shrink it in the bucket or raise max_pixels",
            cause="too_large",
        )
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


def _neither_jpeg_nor_png(role: str, data: bytes) -> BadPairError:
    if not data:
        return BadPairError(f"the {role} is an empty object; store it again", cause="corrupt")
    found = next((name for magic, name in _OTHERS if data.startswith(magic)), f"starting with the bytes {data[:8]!r}")
    return BadPairError(
        f"the {role} is neither JPEG nor PNG but {found}; store it as one of these (the extension does not matter)",
        cause="unsupported",
    )
