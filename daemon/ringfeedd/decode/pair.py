"""A pair's compressed bytes to pixels, straight into the rows of a slot; the steps are those of ``docs/decoding.md``.

Pure apart from the rows it is given, and safe in threads: nothing is shared between two calls, and the codecs release
the interpreter while they work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ringfeedd.decode import codecs as fast_codecs
from ringfeedd.decode.fit import Box, Placement, frame
from ringfeedd.decode.image import Picture, as_bad_pair, open_picture
from ringfeedd.decode.label_turn import label_turn
from ringfeedd.decode.spec import DecodeSpec, Fit, LabelMode
from ringfeedd.errors import BadPairError

LabelRow: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
LabelType: TypeAlias = np.dtype[np.uint8] | np.dtype[np.uint16]

_GREY_STEPS: Final = {"L;2": 0x55, "L;4": 0x11}
"""By what Pillow multiplies the values of a 2-bit and a 4-bit grey PNG, to spread them over 0..255."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What was found in a pair; all sizes in pixels, a picture's once it is turned (if it is).

    With ``fit="native"`` they are also the sizes in which the pixels lie in the rows.

    Attributes:
        image_height: of the image as stored in the bucket.
        image_width: of the image as stored in the bucket.
        label_height: of the label as stored in the bucket.
        label_width: of the label as stored in the bucket.
        size_mismatch: the two differ, so the label may not lie on what it labels.
        turn_unsure: the image was turned, and nothing tells whether its label was drawn before or after that.
    """

    image_height: int
    image_width: int
    label_height: int
    label_width: int
    size_mismatch: bool
    turn_unsure: bool = False


def decode_pair(
    image: bytes, label: bytes, spec: DecodeSpec, image_out: NDArray[np.uint8], label_out: LabelRow
) -> Decoded:
    """Decode one pair into one slot.

    Args:
        image: a whole JPEG or PNG object.
        label: a whole JPEG or PNG object; only a PNG holds class ids or measurements.
        spec: the ring's settings.
        image_out: C-contiguous, ``spec.image_row_shape``, uint8. All of it is written, but with ``fit="native"`` only
            its first height * width * 3 values, densely.
        label_out: C-contiguous, ``spec.label_row_shape``, ``spec.label_dtype``, written likewise.

    Returns:
        The sizes that were found.

    Raises:
        ValueError: a row has another shape or type than the spec's, or is not C-contiguous.
        BadPairError: nothing usable came of it, and both rows may hold anything. Its cause is "corrupt" (cut short or
            damaged), "unsupported" (a format or a kind of pixel that is not taken), "too_large" (for ``max_pixels``, or
            for the row in ``native``), or "size_mismatch" (``native`` only).
    """
    _check_row("image", image_out, spec.image_row_shape, np.dtype(np.uint8))
    _check_row("label", label_out, spec.label_row_shape, spec.label_dtype)
    # Both headers come first: a pair that is refused for its kind or size costs no decoding.
    source = open_picture("image", image, max_pixels=spec.max_pixels, exif_orientation=spec.exif_orientation)
    labels = open_picture("label", label, max_pixels=spec.max_pixels, exif_orientation=spec.exif_orientation)
    labels.turn, turn_unsure = label_turn(source, labels)
    _refuse_image_kind(source)
    _refuse_label_kind(labels, spec.label_mode)
    decoded = Decoded(
        image_height=source.height,
        image_width=source.width,
        label_height=labels.height,
        label_width=labels.width,
        size_mismatch=(source.height, source.width) != (labels.height, labels.width),
        turn_unsure=turn_unsure,
    )
    if spec.fit == Fit.NATIVE:
        _refuse_native_size(decoded, spec)
    _write_image(source, _frame(source, spec), spec, image_out)
    _write_label(labels, _frame(labels, spec), spec, label_out)
    return decoded


def _write_image(picture: Picture, framing: Placement, spec: DecodeSpec, row: NDArray[np.uint8]) -> None:
    target = _target(row, framing, spec, spec.image_pad)
    as_stored = framing.keeps_every_pixel and picture.turn is None
    if as_stored and target.flags.c_contiguous and any(fast(picture, target) for fast in fast_codecs.FOR_IMAGES):
        return
    scale = framing.draft_scale if picture.header.quantized else 1
    box = _shrunk(framing.box, scale, picture)
    rgb = _to_rgb(_loaded(picture, scale), picture.role)
    if picture.turn:
        rgb = rgb.transpose(picture.turn.method)
    if rgb.size != (framing.width, framing.height) or box != (0, 0, *rgb.size):
        rgb = rgb.resize((framing.width, framing.height), Image.Resampling.BILINEAR, box=box)
    np.copyto(target, np.asarray(rgb))


def _write_label(picture: Picture, framing: Placement, spec: DecodeSpec, row: LabelRow) -> None:
    target = _target(row, framing, spec, spec.label_pad)
    if spec.label_mode == LabelMode.RGB:
        np.copyto(target, np.asarray(_to_rgb(_fitted(_upright(picture), framing), picture.role)))
    elif not _write_fast_label(picture, framing, target):
        step = _GREY_STEPS.get(picture.header.packing, 1)
        numbers = np.asarray(_fitted(_upright(picture), framing))
        # Unsafe only by its type: a kind whose values would not fit has been refused.
        np.copyto(target, numbers // step if step > 1 else numbers, casting="unsafe")


def _write_fast_label(picture: Picture, framing: Placement, target: LabelRow) -> bool:
    if picture.turn is not None:
        return False
    if framing.keeps_every_pixel:
        return any(fast(picture, target) for fast in fast_codecs.FOR_LABELS)
    # Declined for 16 bits, so 8 hold every value.
    stored = np.empty((picture.height, picture.width), np.uint8)
    if not any(fast(picture, stored) for fast in fast_codecs.FOR_LABELS):
        return False
    values = Image.frombuffer("L", (picture.width, picture.height), stored, "raw", "L", 0, 1)
    np.copyto(target, np.asarray(_fitted(values, framing)))
    return True


def _fitted(values: Image.Image, framing: Placement) -> Image.Image:
    """A label's values in the size in which they are shown: nearest picks one, and makes none that was not there."""
    if framing.keeps_every_pixel:
        return values
    return values.resize((framing.width, framing.height), Image.Resampling.NEAREST, box=framing.box)


def _upright(picture: Picture) -> Image.Image:
    """A label's stored values, turned as it is to be."""
    stored = _loaded(picture)
    return stored if picture.turn is None else stored.transpose(picture.turn.method)


def _loaded(picture: Picture, scale: int = 1) -> Image.Image:
    """The whole picture as it is stored, decoded by Pillow at 1/scale."""
    stored = picture.file
    # All in one piece: in Pillow's usual ones of 64 KB, libjpeg begins a row again where a piece ended within it.
    stored.decodermaxblock = len(picture.data)
    with as_bad_pair(picture.role, "cannot be decoded"):
        if scale > 1:
            stored.draft(None, (stored.width // scale, stored.height // scale))
        stored.load()
    return stored


def _to_rgb(loaded: Image.Image, role: str) -> Image.Image:
    """As Pillow's ``convert("RGB")``: transparency is dropped, not blended."""
    # convert() would look for a place for it in the result, and warn, for something that is dropped anyway.
    loaded.info.pop("transparency", None)
    with as_bad_pair(role, "cannot be converted to RGB"):
        return loaded if loaded.mode == "RGB" else loaded.convert("RGB")


def _check_row(role: str, row: LabelRow, shape: tuple[int, ...], dtype: LabelType) -> None:
    """A row of another kind would be written outside the ring: reshaping it makes a copy."""
    if row.shape != shape or row.dtype != dtype or not row.flags.c_contiguous:
        raise ValueError(f"the {role} row is {row.dtype} {row.shape}; it must be {dtype} {shape} and C-contiguous")


def _frame(picture: Picture, spec: DecodeSpec) -> Placement:
    return frame(spec.fit, width=picture.width, height=picture.height, row_width=spec.width, row_height=spec.height)


def _target(row: LabelRow, framing: Placement, spec: DecodeSpec, pad_value: int) -> LabelRow:
    """The part of the row that the picture's pixels go to, (height, width[, 3]); what lies around it is filled."""
    if spec.fit == Fit.NATIVE:
        shape = (framing.height, framing.width, *row.shape[2:])
        return row.reshape(-1)[: int(np.prod(shape))].reshape(shape)
    if row.shape[:2] == (framing.height, framing.width):
        return row
    bottom = framing.top + framing.height
    right = framing.left + framing.width
    for border in (
        row[: framing.top],
        row[bottom:],
        row[framing.top : bottom, : framing.left],
        row[framing.top : bottom, right:],
    ):
        border[...] = pad_value
    return row[framing.top : bottom, framing.left : right]


def _shrunk(box: Box, scale: int, picture: Picture) -> Box:
    """A box of the full picture in the same picture decoded at 1/scale, which is rounded up to whole pixels.

    The box stays on what the full picture covers. What rounding added lies at the stored picture's right and bottom;
    turning takes it elsewhere.
    """
    turn = picture.turn
    x = -picture.width % scale / scale if turn and turn.mirrors_x else 0.0
    y = -picture.height % scale / scale if turn and turn.mirrors_y else 0.0
    return (box[0] / scale + x, box[1] / scale + y, box[2] / scale + x, box[3] / scale + y)


def _refuse_image_kind(picture: Picture) -> None:
    if picture.header.mode in {"I;16", "I"}:
        raise BadPairError(
            "the image is a 16-bit grey PNG, whose values from 256 up would all become white; store it with 8 bits",
            cause="unsupported",
        )


def _refuse_label_kind(picture: Picture, mode: LabelMode) -> None:
    kind = picture.header.mode
    if mode == LabelMode.RGB:
        if kind in {"I;16", "I"}:
            raise BadPairError(
                'the label is a 16-bit grey PNG, which is not a colour picture; use label mode "gray16"',
                cause="unsupported",
            )
        return
    if picture.header.is_jpeg:
        raise BadPairError(
            f'the label is a JPEG, whose compression changes values, so label mode "{mode}" cannot trust them; '
            f'store it as PNG, or use label mode "rgb"',
            cause="unsupported",
        )
    if mode == LabelMode.INDEX and kind not in {"P", "L", "1"}:
        advice = 'use label mode "gray16"' if kind.startswith("I") else 'store class ids, or use label mode "rgb"'
        raise BadPairError(
            f'the label is a PNG of mode {kind}, but label mode "index" takes one with a palette (P), or with 1 to 8 '
            f"bits of grey (1, L); {advice}",
            cause="unsupported",
        )
    if mode == LabelMode.GRAY16 and kind not in {"I;16", "I", "L", "1"}:
        advice = 'use label mode "index"' if kind == "P" else 'store one grey channel, or use label mode "rgb"'
        raise BadPairError(
            f'the label is a PNG of mode {kind}, but label mode "gray16" takes a grey one of 1 to 16 bits; {advice}',
            cause="unsupported",
        )


def _refuse_native_size(decoded: Decoded, spec: DecodeSpec) -> None:
    pixels = decoded.image_height * decoded.image_width
    if pixels > spec.height * spec.width:
        raise BadPairError(
            f"the image has {decoded.image_height}x{decoded.image_width} = {pixels} pixels, but a slot holds "
            f"{spec.height}x{spec.width} = {spec.height * spec.width}; set size= (--size {decoded.image_height}x"
            f"{decoded.image_width}) for larger slots, or choose another fit",
            cause="too_large",
        )
    if decoded.size_mismatch:
        raise BadPairError(
            f"the image has {decoded.image_height}x{decoded.image_width} pixels and its label "
            f'{decoded.label_height}x{decoded.label_width}; with fit "native" they must be equal',
            cause="size_mismatch",
        )
