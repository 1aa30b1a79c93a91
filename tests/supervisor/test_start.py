"""How little a start needs: what is imported only where it is used, and what waits for the first pairs."""

import asyncio
import subprocess
import sys

import pytest

from ringfeedd.config import Config, resolve
from ringfeedd.storage import modules_for
from ringfeedd.supervisor.refresh import Refresher
from ringfeedd.supervisor.state import DaemonState

HEAVY = ("aiohttp", "gcloud", "PIL", "pycurl", "tqdm", "tenacity", "prometheus_client", "torch")


def imported_by(statement: str, names: tuple[str, ...]) -> list[str]:
    script = f"import sys; {statement}; print(*[name for name in {names!r} if name in sys.modules])"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()


def test_the_command_line_begins_quickly():
    """It loads nothing that takes long."""
    assert imported_by("import ringfeedd.cli.entry", (*HEAVY, "numpy", "asyncio", "msgspec")) == []


def test_a_daemon_imports_only_what_it_needs():
    """Not what only a listing, a status page or a worker needs."""
    assert imported_by("import ringfeedd.cli.main", HEAVY) == []


@pytest.mark.parametrize(
    ("transport", "expected"), [("auto", ["pycurl"]), ("curl", ["pycurl"]), ("gcloud", ["aiohttp"]), ("folder", [])]
)
def test_workers_need_what_opening_a_source_imports(transport, expected, tmp_path):
    pytest.importorskip("pycurl")
    root, transport = (str(tmp_path), "auto") if transport == "folder" else ("gs://bucket", transport)
    options = f"emulator='http://127.0.0.1:9', transport={transport!r}"
    given = f"{root!r}, {options}"
    settings = f"s.StoreSettings(concurrency=1, {options})"
    opened = f"import asyncio, ringfeedd.storage as s; asyncio.run(s.open_source({root!r}, {settings}))"
    told = f"import importlib, ringfeedd.storage as s; [importlib.import_module(m) for m in s.modules_for({given})]"
    assert imported_by(opened, HEAVY) == imported_by(told, HEAVY) == expected


def test_only_a_real_bucket_needs_credentials_in_workers():
    assert "ringfeedd.storage.token" in modules_for("gs://bucket", emulator=None)
    assert "ringfeedd.storage.token" not in modules_for("gs://bucket", emulator="http://127.0.0.1:9")


def test_the_first_pairs_come_before_another_listing(monkeypatch):
    listed = []

    async def list_root(config):
        listed.append(config)
        raise RuntimeError

    monkeypatch.setattr("ringfeedd.supervisor.refresh.list_root", list_root)

    async def run() -> None:
        refresher = Refresher(DaemonState(resolve(Config(root="gs://b")), lambda: 0.0, lambda: None))
        refresher.wanted = True
        refresher.begin(ready=False)
        await asyncio.sleep(0)
        assert not listed
        refresher.begin(ready=True)
        await refresher.end()

    asyncio.run(run())
