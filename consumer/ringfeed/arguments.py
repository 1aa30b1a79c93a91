"""Arguments that a user gives: what they must be, as a sentence where they are something else."""

from __future__ import annotations

import operator


def whole_number(name: str, value: object, *, least: int) -> int:
    """Return a whole number as Python's own, also of NumPy or of a tensor.

    Raises:
        ValueError: it is something else, or less than ``least``.
    """
    if not isinstance(value, bool):
        try:
            number = operator.index(value)  # type: ignore[arg-type]  # what has none is the error
        except TypeError:
            number = least - 1
        if number >= least:
            return number
    raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def function_or_none(name: str, value: object) -> None:
    """Raise ValueError where a value is neither a function nor None."""
    if value is not None and not callable(value):
        raise ValueError(f"{name} is {value!r}; it must be a function, or None")


def true_or_false(name: str, value: object) -> bool:
    """Return a bool as Python's own, also of NumPy, and 0 and 1.

    Raises:
        ValueError: it is something else: ``"no"`` would count as true.
    """
    if value in (True, False):
        return bool(value)
    raise ValueError(f"{name} is {value!r}; it must be True or False")
