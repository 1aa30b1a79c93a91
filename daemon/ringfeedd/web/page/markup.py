"""Builds HTML as a tree, so that no text can become markup."""

from __future__ import annotations

from typing import TypeAlias
from xml.etree import ElementTree as ET

from ringfeed.text import one_line

Node: TypeAlias = ET.Element


def tag(kind: str, /, *children: Node | str | None, **attributes: str) -> Node:
    """Make an element; texts, also those of attributes, are made one line that prints, and escaped when written.

    Args:
        children: None stands for no child.
        attributes: ``class_`` is ``class``, ``data_turn`` is ``data-turn``.
    """
    element = ET.Element(kind)
    for name, text in attributes.items():
        element.set(name.rstrip("_").replace("_", "-"), one_line(text))
    last: Node | None = None
    for child in children:
        if isinstance(child, ET.Element):
            element.append(child)
            last = child
        elif child is None:
            continue
        elif last is None:
            element.text = (element.text or "") + one_line(child)
        else:
            last.tail = (last.tail or "") + one_line(child)
    return element


def raw(kind: str, text: str) -> Node:
    """Make a ``style`` or ``script`` element of our own text, which is written as it stands."""
    element = ET.Element(kind)
    element.text = text
    return element


def html(*nodes: Node) -> str:
    """Write the elements."""
    return "".join(ET.tostring(node, encoding="unicode", method="html") for node in nodes)
