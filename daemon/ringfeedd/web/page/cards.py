"""What the page's parts are made of: cards, tables, and the colours that are one group's everywhere."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ringfeedd.web.page.markup import Node, tag

COLOURS: Final = 8
"""Colours of groups and causes, the classes ``c0`` to ``c7`` of the style."""


def card(kind: str, title: str, *children: Node | str | None, **attributes: str) -> Node:
    """A card; without a title where that is empty."""
    heading = tag("h2", title) if title else None
    return tag("section", heading, *children, class_=f"card {kind}", **attributes)


def group_colours(groups: Iterable[str]) -> dict[str, str]:
    """A class for each group: the same on each look, and different ones while there are few groups."""
    found: dict[str, str] = {}
    for group in sorted(set(groups)):
        first = zlib.crc32(group.encode(errors="replace")) % COLOURS
        free = (f"c{(first + step) % COLOURS}" for step in range(COLOURS))
        found[group] = next((colour for colour in free if colour not in found.values()), f"c{first}")
    return found


def table(
    names: Sequence[str],
    rows: Iterable[Sequence[Node | str]],
    *,
    kinds: Mapping[str, str] | None = None,
    numbers: Sequence[str] = (),
) -> Node:
    """A table, whose rows become cards on a narrow screen.

    Args:
        kinds: classes of columns.
        numbers: columns that are aligned at the right.
    """
    kinds = {**dict.fromkeys(numbers, "n"), **(kinds or {})}
    head = tag("tr", *(tag("th", name, scope="col", class_=kinds.get(name, "")) for name in names))
    body = [
        tag(
            "tr",
            *(tag("td", cell, data_h=name, class_=kinds.get(name, "")) for name, cell in zip(names, row, strict=True)),
        )
        for row in rows
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide")
