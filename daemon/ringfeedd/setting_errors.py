"""From a value that `Config` refuses to a sentence: the setting, its value, and what it must be. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import inspect

from ringfeed.cli.arguments import out_of_range

_FIELD: Final = re.compile(r" - at `\$\.(\w+)`$")
_UNKNOWN: Final = re.compile(r"unknown field `(.*)`", re.DOTALL)

_KINDS: Final = {
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.BoolType: "true or false",
    inspect.StrType: "a text",
}


def setting_error(
    error: msgspec.ValidationError, settings: Mapping[str, Any], flags: Mapping[str, Any], kind: type
) -> str:
    """Return the sentence for one that msgspec refused.

    Args:
        settings: all that were given.
        flags: those of them that came from the command line.
        kind: the settings' struct.
    """
    if unknown := _UNKNOWN.search(str(error)):
        near = difflib.get_close_matches(unknown[1], [field.name for field in msgspec.structs.fields(kind)], n=1)
        return f"unrecognized setting {unknown[1]}" + (f"; is {near[0]} meant?" if near else "")
    found = _FIELD.search(str(error))
    if found is None:
        return str(error)
    name = found[1]
    value = settings[name]
    must_be = _must_be(value, next(field.type for field in msgspec.structs.fields(kind) if field.name == name))
    if name in flags:
        value = f"{value:g}" if isinstance(value, float) else value
        return f"--{name.replace('_', '-')} {value}: {must_be}"
    return f"{name} = {value!r}: {must_be}"


def _must_be(value: object, declared: Any) -> str:  # noqa: ANN401  # an annotation
    kind = inspect.type_info(declared)
    kinds = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    for each in kinds:
        if isinstance(each, inspect.IntType | inspect.FloatType) and _fits(value, each):
            return out_of_range(float(str(value)) if isinstance(value, float) else value, **_bounds(each))  # type: ignore[arg-type]
    return f"must be {' or '.join(filter(None, map(_named, kinds)))}"


def _fits(value: object, kind: inspect.IntType | inspect.FloatType) -> bool:
    accepted = (int,) if isinstance(kind, inspect.IntType) else (int, float)
    return isinstance(value, accepted) and not isinstance(value, bool)


def _bounds(kind: inspect.IntType | inspect.FloatType) -> dict[str, float | None]:
    return {"least": kind.ge, "most": kind.le, "above": kind.gt, "below": kind.lt}


def _named(kind: inspect.Type) -> str:
    match kind:
        case inspect.LiteralType(values=values):
            return " or ".join(map(str, values))
        case inspect.EnumType(cls=cls):
            return "one of " + ", ".join(str(member.value) for member in cls)
        case _:
            return _KINDS.get(type(kind), "")
