"""The locks name all that the tests and a daemon install, with hashes; the bill of materials comes from them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "scripts"
LOCKS = sorted((SCRIPTS / "locks").glob("*.txt"))


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path: Path) -> dict[str, str]:
    """Versions by package."""
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), re.MULTILINE)}


def everything() -> dict[str, str]:
    return {name: version for path in LOCKS for name, version in locked(path).items()}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_locked_package_has_hashes(path):
    entries = re.split(r"^(?=[\w.-]+==)", path.read_text(), flags=re.MULTILINE)[1:]
    assert entries
    for entry in entries:
        first, *rest = entry.rstrip("\n").split(" \\\n")
        assert re.fullmatch(r"[\w.-]+==[\w.+!]+( ; .+)?", first)
        assert rest
        assert all(re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}", line) for line in rest), entry


def test_the_locks_have_the_versions_of_the_constraints():
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (SCRIPTS / "constraints.txt").read_text(), re.MULTILINE)
    versions = everything()
    assert len(pins) > 50
    differing = {name: (pin, versions[normal(name)]) for name, pin in pins if versions.get(normal(name), pin) != pin}
    assert not differing, f"run scripts/lock: {differing}"


def test_the_locks_cover_all_the_projects_dependencies():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def names(*wanted: str) -> set[str]:
        asked = [*project["dependencies"], *(entry for extra in wanted for entry in extras[extra])]
        return {normal(re.match(r"[\w.-]+", entry)[0]) for entry in asked}

    assert names("torch", "fast", "demo", "dev", "trainers") <= everything().keys(), "run scripts/lock"
    assert names("fast") <= locked(SCRIPTS / "locks/daemon.txt").keys(), "run scripts/lock"


def test_a_daemon_is_locked_at_what_was_tested():
    tests = everything()
    assert {name: tests[name] for name in locked(SCRIPTS / "locks/daemon.txt")} == locked(SCRIPTS / "locks/daemon.txt")
    assert "torch" not in locked(SCRIPTS / "locks/daemon.txt")


def test_the_bill_of_materials_has_packages_and_hashes():
    bill = json.loads(subprocess.run([sys.executable, SCRIPTS / "sbom"], capture_output=True, check=True).stdout)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    lock = (SCRIPTS / "locks/daemon.txt").read_text()
    named = {normal(each["name"]): each["version"] for each in bill["components"]}
    assert named == locked(SCRIPTS / "locks/daemon.txt")
    hashes = [
        digest["content"]
        for each in bill["components"]
        for file in each["externalReferences"]
        for digest in file["hashes"]
    ]
    assert sorted(hashes) == sorted(re.findall(r"sha256:([0-9a-f]{64})", lock))
    assert bill["dependencies"][0]["dependsOn"] == sorted(each["purl"] for each in bill["components"])
