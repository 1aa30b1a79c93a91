"""docs/troubleshooting.md has every sentence of the code, and no other."""

import re
from pathlib import Path

import pytest
from messages_in_code import messages, normal

PAGE = Path(__file__).parents[2] / "docs/troubleshooting.md"


def documented() -> list[str]:
    """The sentences in the first cells of the tables."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `"):
            cell = line.split(" | ")[0]
            found += [normal(text) for text in re.findall(r"`([^`]+)`", cell)]
    return found


def fits(entry: str, message: str) -> bool:
    """Whether an entry of the page is this message, or its beginning with ``...`` for the rest."""
    return entry == message or (entry.endswith("...") and message.startswith(entry.removesuffix("...").rstrip()))


def test_every_sentence_of_the_code_is_explained():
    entries = documented()
    missing = {m: where for m, where in messages().items() if not any(fits(entry, m) for entry in entries)}
    rows = "\n".join(f"| `{message}` | why | what to do |    (from {where})" for message, where in missing.items())
    assert not missing, (
        f"docs/troubleshooting.md does not explain {len(missing)} sentences of the code. Add these to the table where "
        f"users meet them (a long one may end in ... after its first words, several may share a row by <br>):\n{rows}"
    )


def test_every_entry_is_a_sentence_of_the_code():
    known = messages()
    stale = [entry for entry in documented() if not any(fits(entry, message) for message in known)]
    assert not stale, "docs/troubleshooting.md explains what no code says any more; remove or correct:\n" + "\n".join(
        f"  `{entry}`" for entry in stale
    )


def test_a_shortened_entry_still_means_one_sentence():
    known = messages()
    vague = {}
    for entry in documented():
        meant = [message for message in known if fits(entry, message)]
        if entry not in known and len(meant) > 1:
            vague[entry] = meant
    assert not vague, f"these entries of docs/troubleshooting.md fit several sentences; let each show more: {vague}"


def test_no_sentence_is_explained_twice():
    entries = documented()
    assert [entry for entry in set(entries) if entries.count(entry) > 1] == []


def test_every_row_tells_why():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    for row in rows:
        cells = row.strip().strip("|").split(" | ")
        assert len(cells) == 3, row
        assert cells[1].strip(), row


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", PAGE.read_text()))
def test_every_link_leads_somewhere(link):
    file, anchor = link
    text = (PAGE.parent / file).read_text()
    titles = re.findall(r"^#+ (.*)$", text.lower(), re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}
    assert not anchor or anchor in anchors, link
