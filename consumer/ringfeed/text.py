"""Text from a bucket or from another user's process, made fit for a terminal or a log: one line, nothing that acts."""

from __future__ import annotations


def one_line(text: str) -> str:
    r"""``text`` with every character that does not print (``\n``, escapes, marks that turn the direction) escaped."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
