"""docs/guarantees.md names a test for each guarantee; this checks that they exist."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "guarantees.md").read_text()
SECURITY = (REPOSITORY / "SECURITY.md").read_text()


def test_every_test_that_the_guarantees_name_exists():
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", PAGE + SECURITY)
    assert len(named) > 20
    texts = {path.name: path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py")}
    for file, name in named:
        found = re.search(rf"^(?:def {name}\(|{name} = )", texts[file], re.MULTILINE)
        assert found, f"{file} has no {name}"


def test_every_guarantee_has_a_test():
    promised = PAGE.partition("## What is not guaranteed")[0]
    for guarantee in re.findall(r"^- (.*?)(?=^- |^## |\Z)", promised, re.MULTILINE | re.DOTALL):
        assert "::test_" in guarantee, guarantee
