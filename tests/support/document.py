"""`shm_layout.md`, read: its tables by heading, its constants and its Python blocks."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENT = (Path(__file__).parents[2] / "shm_layout.md").read_text()


def tables(heading: str) -> list[list[list[str]]]:
    """The tables of one section, as rows of cells; head and rule are left out."""
    match = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert match, heading
    found = re.findall(r"(?:^\|.*\n)+", match[1], re.MULTILINE)
    return [[[c.strip().strip("`") for c in line.strip("|").split("|")] for line in t.splitlines()[2:]] for t in found]


def words(heading: str) -> dict[str, int]:
    """Offsets in bytes by word, in the section's first table."""
    rows = tables(heading)[0]
    found = {row[2]: int(row[0]) for row in rows}
    assert len(found) == len(rows), f"a word stands twice under {heading}"
    return found


def sizes(heading: str) -> list[tuple[int, int, str]]:
    """(begin, end, word) in bytes of every word and text of an area, in order."""
    return sorted((int(row[0]), int(row[0]) + int(row[1]), row[2]) for row in tables(heading)[0])


def constants() -> dict[str, int]:
    """The values of the constants."""
    return {name: int(value, 0) for name, value, _ in tables("Constants")[0]}


def enumerations() -> dict[str, dict[str, int]]:
    """The members of each enumeration."""
    found: dict[str, dict[str, int]] = {}
    for enumeration, value, name, _ in tables("Constants")[1]:
        found.setdefault(enumeration, {})[name] = int(value)
    return found


def timeouts() -> dict[str, float]:
    """The timeouts in seconds."""
    return {name: float(value) for name, value, *_ in tables("Timeouts")[0]}


def python() -> str:
    """All Python blocks as one module's text, each line at its number in the document."""
    lines = [""] * (DOCUMENT.count("\n") + 1)
    for match in re.finditer(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL):
        first = DOCUMENT.count("\n", 0, match.start(1))
        block = match[1].splitlines()
        lines[first : first + len(block)] = block
    return "\n".join(lines)
