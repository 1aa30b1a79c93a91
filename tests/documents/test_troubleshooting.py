"""docs/troubleshooting.md quotes only what the code says, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
PAGE = HERE / "docs/troubleshooting.md"
ROWS = [
    line.strip("| \n").split(" | ")
    for line in PAGE.read_text().splitlines()
    if re.match(r"\| (?!what you see|-)", line)
]


def test_every_symptom_has_cause_and_cure():
    assert len(ROWS) >= 30
    for row in ROWS:
        assert len(row) == 3, row
        assert all(cell.strip() for cell in row), row


def source() -> str:
    """The code as one text in small letters, in which strings that go on in the next line are joined."""
    files = (file for name in ("consumer", "daemon") for file in (HERE / name).rglob("*.py"))
    return re.sub(r'"\n\s*f?"', "", "\n".join(file.read_text() for file in files)).lower()


def test_every_quoted_text_is_the_codes():
    quoted = [text.lower() for seen, *_ in ROWS for text in re.findall(r'"([^"]+)"', seen)]
    assert len(quoted) >= 20
    pieces = [piece.strip() for text in quoted for piece in text.split("...")]
    code = source()
    assert [piece for piece in pieces if piece not in code] == []


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", PAGE.read_text()))
def test_every_link_leads_somewhere(link):
    file, anchor = link
    text = (PAGE.parent / file).read_text()
    titles = re.findall(r"^#+ (.*)$", text.lower(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}
    assert not anchor or anchor in anchors, link
