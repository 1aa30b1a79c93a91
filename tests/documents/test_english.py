"""Documents say what they mean in the field's words: some words and phrases that readers stumbled over are not used."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

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


PACKAGES = (
    *("daemon/ringfeedd/catalog", "daemon/ringfeedd/cli", "daemon/ringfeedd/config", "daemon/ringfeedd/storage"),
    *("daemon/ringfeedd/decode", "daemon/ringfeedd/ring", "daemon/ringfeedd/supervisor", "daemon/ringfeedd/system"),
    *("daemon/ringfeedd/cache", "daemon/ringfeedd/worker", "daemon/ringfeedd/fetch", "daemon/ringfeedd/reporting"),
    *("consumer/ringfeed/cli", "consumer/ringfeed/health", "consumer/ringfeed/daemon", "consumer/ringfeed/torch"),
    *("consumer/ringfeed/reader", "daemon/ringfeedd/web"),
)
"""Packages of which the docstrings and messages are checked too; add one once it is clean."""


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


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_and_messages_have_no_banned_words(package):
    found = []
    for path in sorted((REPOSITORY / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += [f"{path.name}:{node.lineno}: {stumble}" for stumble in stumbles(node.value)]
    assert not found, "\n".join(found)


def test_code_and_quotations_are_passed_over():
    text = "Made anew.\n\n```python\nmend()\n```\n    mend\n`what ails it` [x](beside.md) is had\nfor\never"
    assert [found.split(";")[0] for found in stumbles(text)] == ["line 1: 'anew'", "line 8: 'for ever'"]
