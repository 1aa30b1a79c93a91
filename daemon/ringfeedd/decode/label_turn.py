"""Which way up a label lies under an image that is turned by its EXIF orientation. Pure.

Labels are drawn on the image as people see it, or computed from its stored pixels; most files do not say which. The
shapes do, where one of the two readings makes a tall label of a wide image.
"""

from __future__ import annotations

from typing import NamedTuple

from ringfeedd.decode.image import Picture, Turn


class LabelTurn(NamedTuple):
    """How a label is turned.

    Attributes:
        turn: None where it is taken as it is stored.
        unsure: another reading fits as well, so the label may not lie on what it labels.
    """

    turn: Turn | None
    unsure: bool


def label_turn(image: Picture, label: Picture) -> LabelTurn:
    """Decide how a label is turned.

    Args:
        image: turned as its own EXIF orientation asks.
        label: the same; where it has no orientation of its own, it may have to be turned as the image is.
    """
    turn = label.turn or image.turn
    if turn is None:
        return LabelTurn(None, unsure=False)
    header = label.header
    shown = _shape(image.width, image.height)
    fits_as_stored = _shape(header.width, header.height) == shown
    fits_turned = (_shape(header.height, header.width) if turn.swaps else _shape(header.width, header.height)) == shown
    if fits_as_stored != fits_turned:
        return LabelTurn(turn if fits_turned else None, unsure=False)
    return LabelTurn(label.turn, unsure=label.turn is not image.turn)


def _shape(width: int, height: int) -> int:
    """1: wide, -1: tall, 0: square."""
    return (width > height) - (width < height)
