"""Documents say what they mean in the field's words: some words and phrases that readers stumbled over are not used."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

MAX_WORDS = 8
"""Of a test's name, after `test_`."""

BANNED = {
    r"anew": "again, new, re-...",
    r"ails?|ailments?": "problems",
    r"(?:whoso|who)ever|(?:no|some|any|every)body": "name the subject: a user, a reader, no process",
    r"former": "previous, earlier",
    r"mend(?:s|ed|ing)?": "fix",
    r"for ever": "without limit, permanently",
    r"be(?:en)? had|be meant|be believed": "failed to load, invalid, trusted",
    r"save (?:that|for)": "except",
    r"cures?|cured": "fix, remedy",
    r"beside": "next to, besides, compared with",
    r"l(?:ay|ays|aid|aying) out": "define, allocate, fetch",
    r"hand(?:s|ed|ing)? out": "assign, deliver",
    r"let(?:s|ting)? go": "release",
}
"""Patterns of what is not written, and what to write instead."""


CODE = ("consumer", "daemon", "scripts")
"""Folders of which the docstrings, comments and messages are checked."""

NOT_PROSE = r"\.former\b|\|former\)|^User=nobody$"
"""The protocol's file names, and a line of a systemd unit."""


def documents() -> list[str]:
    found = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    return sorted(str(path.relative_to(REPOSITORY)) for path in found)


def prose(text: str) -> str:
    """Return a text of the same lines, with code, quoted messages and link targets as spaces."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    for code in (r"^```.*?^```", r"^(?: {4,}|\t).*$", r"`[^`]*`", r"\]\([^)]*\)"):
        text = re.sub(code, blank, text, flags=re.MULTILINE | re.DOTALL if "```" in code else re.MULTILINE)
    return text


def stumbles(text: str) -> list[str]:
    """Each banned phrase of a text, with its line and what to write instead."""
    text = prose(text)
    found = []
    for pattern, instead in BANNED.items():
        spaced = pattern.replace(" ", r"\s+")
        for match in re.finditer(rf"\b(?:{spaced})\b", text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"line {line}: {' '.join(match[0].split())!r}; write: {instead}")
    return found


@pytest.mark.parametrize("document", documents())
def test_a_document_has_no_banned_words(document):
    found = stumbles((REPOSITORY / document).read_text())
    assert not found, f"{document}: " + "; ".join(found)


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Each docstring, comment and message of a file, with the line where it begins; a shell script is one text."""
    text = path.read_text()
    if path.suffix != ".py":
        yield 1, text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def code() -> list[str]:
    """Return the packages of the code, and single files above them."""
    folders = {path.parent for folder in CODE for path in (REPOSITORY / folder).rglob("*.py")}
    return sorted(str(folder.relative_to(REPOSITORY)) for folder in {*folders, REPOSITORY / "scripts"})


@pytest.mark.parametrize("folder", code())
def test_docstrings_comments_and_messages_have_no_banned_words(folder):
    found = []
    for path in sorted((REPOSITORY / folder).iterdir()):
        if path.suffix not in ("", ".py") or not path.is_file():
            continue
        for line, text in texts(path):
            # An indented line is prose here, and the name before a colon is an attribute's or an argument's.
            plain = re.sub(r"^[ \t]+(?:\w+:)?", "", text, flags=re.MULTILINE)
            plain = re.sub(NOT_PROSE, "", plain, flags=re.MULTILINE)
            found += [f"{path.name}:{line}: {stumble}" for stumble in stumbles(plain)]
    assert not found, "\n".join(found)


def test_no_test_name_has_more_than_eight_words():
    """What more is to be said stands in the docstring."""
    declared = re.compile(r"^\s*(?:(?:async )?def )?test_(\w+)(?:\(| = )", re.MULTILINE)
    paths = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    named = {(path.name, name) for path in paths for name in declared.findall(path.read_text())}
    assert len(named) > 1000
    long = [f"{file}: test_{name}" for file, name in sorted(named) if len(name.split("_")) > MAX_WORDS]
    assert not long, "\n".join(long)


def test_code_and_quotations_are_passed_over():
    text = "Made anew.\n\n```python\nmend()\n```\n    mend\n`what ails it` [x](beside.md) is had\nfor\never"
    assert [found.split(";")[0] for found in stumbles(text)] == ["line 1: 'anew'", "line 8: 'for ever'"]
