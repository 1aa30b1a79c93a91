"""Text for people: one line, nothing that acts on a terminal; numbers with their nouns."""

from __future__ import annotations


def one_line(text: str) -> str:
    r"""``text`` with every character that does not print (``\n``, escapes, marks that turn the direction) escaped."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def count(number: int, noun: str, plural: str = "") -> str:
    """Return a number and a noun: ``1 pair``, ``1,200 pairs``; ``plural`` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
