"""A compressed picture with its header read and nothing decoded yet: what it is, how large, which way up.

Plain files are read by `plain_header`; all others, and whatever is wrong with any, by Pillow, which gets them without
their metadata (see `bare`). Its JPEG and PNG readers
are called by name, never its search over all formats: an object's first bytes decide, not its extension, and no other
reader (an EPS would start Ghostscript) can be reached from a bucket. That also leaves out Pillow's own size warning,
whose limit is one global of the process; ``max_pixels`` is checked here instead, before a single pixel is decoded.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from ringfeedd.decode.header import Header, plain_header
from ringfeedd.decode.metadata import JPEG_MAGIC, PNG_MAGIC, bare
from ringfeedd.decode.orientation import orientation_of
from ringfeedd.decode.spec import MAX_SIDE
from ringfeedd.errors import BadPairError

MAX_SCANS: Final = 100
"""Scans of a progressive JPEG. Encoders write some ten; a few bytes ask for one, which costs a pass over all pixels."""

_START_OF_SCAN: Final = b"\xff\xda"
_MOST_COLOURS: Final = 256
_COLOUR_BYTES: Final = 3
_ANIMATED_OR_INTERLACED: Final = {"interlace", "loop"}
"""What Pillow's reader notes of such a PNG."""

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


class Picture:
    """One compressed picture, its header checked; it belongs to one thread.

    Attributes:
        role: "image" or "label", for sentences.
        data: the whole object, or what of it decides about pixels.
        header: what it is, as it is stored.
        turn: how it must be turned, None where it is taken as stored.
    """

    __slots__ = ("_file", "data", "header", "role", "turn")

    def __init__(self, role: str, data: bytes, header: Header, turn: Turn | None, file: ImageFile | None) -> None:
        self.role, self.data, self.header, self.turn = role, data, header, turn
        self._file = file

    @property
    def file(self) -> ImageFile:
        """Pillow's reader of it; nothing is loaded before one does so."""
        if self._file is None:
            self._file = _open_file(self.role, bare(self.data))
        return self._file

    @property
    def width(self) -> int:
        """Pixels across, once turned."""
        return self.header.height if self.turn and self.turn.swaps else self.header.width

    @property
    def height(self) -> int:
        """Pixels down, once turned."""
        return self.header.width if self.turn and self.turn.swaps else self.header.height


def open_picture(role: str, data: bytes, *, max_pixels: int, exif_orientation: bool = False) -> Picture:
    """The picture whose compressed bytes are ``data``.

    Raises:
        BadPairError: it is neither JPEG nor PNG ("unsupported"), its header cannot be read ("corrupt"), or it has more
            than ``max_pixels`` pixels, a side of more than `MAX_SIDE`, or more than `MAX_SCANS` scans ("too_large").
    """
    turn = TURNS.get(orientation_of(data)) if exif_orientation else None
    plain = plain_header(data)
    if plain is not None:
        _refuse_size(role, plain, max_pixels)
        return Picture(role, data, plain, turn, None)
    data = bare(data)
    file = _open_file(role, data)
    header = _header_of(file)
    _refuse_size(role, header, max_pixels)
    _refuse_scans(role, file, data)
    return Picture(role, data, header, turn, file)


def quiet_codecs() -> None:
    """Keep the codecs' Python warnings out of this process's log: what is wrong with a picture is its own sentence."""
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _open_file(role: str, data: bytes) -> ImageFile:
    with as_bad_pair(role, "has a header that cannot be read"):
        if data.startswith(JPEG_MAGIC):
            return JpegImageFile(io.BytesIO(data))
        if data.startswith(PNG_MAGIC):
            return PngImageFile(io.BytesIO(data))
    raise _neither_jpeg_nor_png(role, data)


def _header_of(file: ImageFile) -> Header:
    """What Pillow's reader has found."""
    width, height = file.size
    if isinstance(file, JpegImageFile):
        return Header(is_jpeg=True, width=width, height=height, mode=file.mode, quantized=bool(file.quantization))
    packing, rows_at = "", None
    if file.tile:
        codec, extents, offset, args = file.tile[0]
        packing = args if isinstance(args, str) else ""
        in_one_piece = codec == "zip" and extents == (0, 0, width, height)
        if in_one_piece and not _ANIMATED_OR_INTERLACED & file.info.keys() and _has_usable_palette(file):
            rows_at = offset
    return Header(is_jpeg=False, width=width, height=height, mode=file.mode, packing=packing, rows_at=rows_at)


def _has_usable_palette(file: ImageFile) -> bool:
    """Whether Pillow would not stumble over it."""
    return file.palette is None or len(file.palette.palette) // _COLOUR_BYTES <= _MOST_COLOURS


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


def _refuse_size(role: str, header: Header, max_pixels: int) -> None:
    width, height = header.width, header.height
    if width * height > max_pixels:
        raise BadPairError(
            f"the {role} has {height}x{width} pixels, which is more than max_pixels = {max_pixels}; shrink it in the "
            f"bucket or raise max_pixels",
            cause="too_large",
        )
    if max(width, height) > MAX_SIDE:
        raise BadPairError(
            f"the {role} has {height}x{width} pixels; a side of more than {MAX_SIDE} is not taken: cut it up",
            cause="too_large",
        )


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
