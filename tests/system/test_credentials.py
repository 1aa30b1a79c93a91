"""Secrets that systemd loads: what is there is used, what the unit puts in place of nothing is not."""

from __future__ import annotations

import pytest

from ringfeedd.config import load
from ringfeedd.system.credentials import GCS_KEY, HTTP_TOKEN, credential, use_key


@pytest.fixture
def loaded(tmp_path):
    """The folder, and the environment that names it."""
    return tmp_path, {"CREDENTIALS_DIRECTORY": str(tmp_path)}


def test_without_systemd_there_is_none():
    assert credential(GCS_KEY, {}) is None


@pytest.mark.parametrize("content", ["none", "none\n", "", "\n"])
def test_a_placeholder_is_no_credential(loaded, content):
    folder, environ = loaded
    (folder / GCS_KEY).write_text(content)
    assert credential(GCS_KEY, environ) is None
    use_key(environ)
    assert "GOOGLE_APPLICATION_CREDENTIALS" not in environ


def test_the_config_s_own_file_comes_first(loaded):
    folder, environ = loaded
    (folder / HTTP_TOKEN).write_text("a token that all share")
    assert credential(HTTP_TOKEN, environ) == folder / HTTP_TOKEN
    (folder / f"{HTTP_TOKEN}.own").write_text("none")
    assert credential(HTTP_TOKEN, environ) == folder / HTTP_TOKEN
    (folder / f"{HTTP_TOKEN}.own").write_text("nonexistent, begins with the placeholder")
    assert credential(HTTP_TOKEN, environ) == folder / f"{HTTP_TOKEN}.own"


def test_an_explicit_key_file_wins(loaded):
    folder, environ = loaded
    (folder / GCS_KEY).write_text("{}")
    use_key(environ)
    assert environ["GOOGLE_APPLICATION_CREDENTIALS"] == str(folder / GCS_KEY)
    environ["GOOGLE_APPLICATION_CREDENTIALS"] = "/mine"
    use_key(environ)
    assert environ["GOOGLE_APPLICATION_CREDENTIALS"] == "/mine"


def test_a_config_s_token_file_wins(tmp_path):
    file = tmp_path / "ringfeed.toml"
    file.write_text('root = "gs://bucket"\n')
    defaults = {"http_token_file": "/run/credentials/http-token"}
    assert load(file, {}, defaults=defaults).config.http_token_file == "/run/credentials/http-token"
    file.write_text('root = "gs://bucket"\nhttp_token_file = "/mine"\n')
    assert load(file, {}, defaults=defaults).config.http_token_file == "/mine"
