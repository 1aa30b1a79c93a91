"""docs/guarantees.md names a test for each guarantee; this checks that they exist."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "guarantees.md").read_text()
SECURITY = (HERE.parent / "SECURITY.md").read_text()


def test_every_test_that_the_guarantees_name_exists():
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", PAGE + SECURITY)
    assert len(named) > 20
    for file, name in named:
        found = re.search(rf"^(?:def {name}\(|{name} = )", (HERE / file).read_text(), re.MULTILINE)
        assert found, f"{file} has no {name}"


def test_every_guarantee_has_a_test():
    promised = PAGE.partition("## What is not guaranteed")[0]
    for guarantee in re.findall(r"^- (.*?)(?=^- |^## |\Z)", promised, re.MULTILINE | re.DOTALL):
        assert "::test_" in guarantee, guarantee
