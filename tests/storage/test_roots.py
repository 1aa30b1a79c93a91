"""A root has one name wherever it is named from, and two roots never share one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ringfeedd.catalog.templates import KeyTemplate
from ringfeedd.config import load
from ringfeedd.errors import ConfigError
from ringfeedd.storage.roots import absolute_root


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder that the current folder holds, under a home."""
    folder = tmp_path.resolve() / "home/project/data"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent.parent))
    return folder


def test_every_spelling_of_a_folder_is_one_root(data):
    (data.parent / "link").symlink_to("data")
    (data.parent.parent / "elsewhere").symlink_to(data.parent)
    spaced = data / "a b"
    spaced.mkdir()
    spellings = ["data", "./data", "data/", "data//", "../project/data", str(data), f"{data}/", f"//{data}"[1:], "link"]
    spellings += [f"file://{data}", f"file://localhost{data}/", "~/project/data", "~/elsewhere/link/", "data/."]
    assert {absolute_root(spelling) for spelling in spellings} == {str(data)}
    assert absolute_root(f"file://{data}/a%20b") == absolute_root("data/a b") == str(spaced)
    assert load(None, {"root": "data"}).config.root == load(None, {"root": "./data"}).config.root == str(data)


def test_one_word_in_two_folders_is_two_roots(data, tmp_path, monkeypatch):
    here = absolute_root("data")
    monkeypatch.chdir(tmp_path)
    assert absolute_root("data") == str(tmp_path.resolve() / "data") != here


def test_a_bucket_loses_only_trailing_slashes():
    assert {absolute_root(f"gs://b{slashes}") for slashes in ("", "/", "//")} == {"gs://b"}
    assert {absolute_root(f"gs://b/a//c{slashes}") for slashes in ("", "/", "///")} == {"gs://b/a//c"}
    assert absolute_root("gs://b//a") == "gs://b//a"
    assert absolute_root("gs://b/~/./x/../%20") == "gs://b/~/./x/../%20"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_an_absolute_root_stays_as_it_is(text):
    assume("://" not in text)
    once = absolute_root(text)
    assert absolute_root(once) == once
    assert once.startswith("/")


@pytest.mark.parametrize("root", ["caf\udce9", "gs://b/caf\udce9", "file:///caf%E9"])
def test_a_root_that_is_not_utf8_is_refused(root):
    with pytest.raises(ConfigError, match=r"root .*caf(\\xe9|%E9) is not UTF-8"):
        absolute_root(root)


def test_a_root_outside_utf8_is_refused(tmp_path, monkeypatch):
    """A folder on its path has a name that is not UTF-8."""
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9"))
    odd.mkdir()
    (tmp_path / "link").symlink_to(odd)
    with pytest.raises(ConfigError, match="is not UTF-8, or lies in a folder whose name is not"):
        absolute_root(str(tmp_path / "link"))
    monkeypatch.chdir(odd)
    with pytest.raises(ConfigError, match="is not UTF-8"):
        absolute_root("data")


def test_a_root_below_a_removed_folder_is_refused(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match="The folder data cannot be looked at"):
        absolute_root("data")


def test_another_machines_folder_is_refused():
    for root in ("file://host/data", "file://"):
        with pytest.raises(ConfigError, match="names a folder on another machine"):
            absolute_root(root)


def test_a_template_that_is_not_utf8_is_refused():
    with pytest.raises(ConfigError, match=r"key template caf\\xe9/{id}.png is not UTF-8"):
        KeyTemplate.parse("caf\udce9/{id}.png")


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("images/{id}.jpg,.JPEG", "images/{id}.jpg,jpeg"),
        ("{id}_mask.png, png ,tif", "{id}_mask.png,tif"),
        ("labels/{id}", "labels/{id}"),
        ("v1.2/{id}/seg", "v1.2/{id}/seg"),
    ],
)
def test_spellings_of_a_template_share_one_form(text, canonical):
    assert KeyTemplate.parse(text).canonical == canonical
    assert KeyTemplate.parse(canonical).canonical == canonical
    assert KeyTemplate.parse(canonical).suffixes == KeyTemplate.parse(text).suffixes
