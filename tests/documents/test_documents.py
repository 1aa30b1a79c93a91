"""Documents lead to each other: links and anchors exist, and the index of decisions is complete."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
RECORDS = sorted((REPOSITORY / "docs/adr").glob("[0-9]*.md"))


def anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text.lower(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_of_a_document_leads_somewhere(document):
    broken = []
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text()):
        target = (document.parent / file) if file else document
        if not target.exists() or (anchor and anchor not in anchors(target.read_text())):
            broken.append(f"{file}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("record", RECORDS, ids=lambda path: path.name)
def test_the_index_has_every_decision(record):
    assert f"]({record.name})" in (REPOSITORY / "docs/adr/README.md").read_text(), "add a row to docs/adr/README.md"


def test_decisions_have_numbers_of_their_own():
    numbers = [record.name.partition("-")[0] for record in RECORDS]
    assert len(set(numbers)) == len(numbers)
