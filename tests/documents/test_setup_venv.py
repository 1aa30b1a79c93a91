"""scripts/setup-venv says what it installs, and does it once; pip is a stub here."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
WHEEL = "torch-2.0+cpu-py3-none-any.whl"

PIP = f"""#!/bin/sh
echo "$@" >>"$0.calls"
if [ "$1" = download ]; then
    while [ "$1" != --dest ]; do shift; done
    mkdir -p "$2"
    printf torch >"$2/{WHEEL}"
fi
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with locks of its own, and a virtual environment whose pip only notes its calls."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts", ignore=shutil.ignore_patterns("bench_peers", "locks"))
    locks = tmp_path / "scripts/locks"
    locks.mkdir()
    (locks / "tests.txt").write_text("numpy==2.0 \\\nscipy==1.0 \\\n")
    (locks / "torch.txt").write_text(f"torch==2.0 --hash=sha256:{hashlib.sha256(b'torch').hexdigest()}\n")
    (tmp_path / "scripts/constraints.txt").write_text("torch==2.0\n")
    (tmp_path / "pyproject.toml").write_text("")
    commands = tmp_path / ".venv/bin"
    commands.mkdir(parents=True)
    for name, text in (("pip", PIP), ("python", "#!/bin/sh\n")):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    return tmp_path


def set_up(checkout: Path) -> str:
    """Run the script; what it said."""
    environ = {name: value for name, value in os.environ.items() if name != "TORCH_INDEX_URL"}
    run = subprocess.run(
        [checkout / "scripts/setup-venv"],
        env={**environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    return run.stderr


def test_it_says_each_step_and_its_size(checkout):
    said = set_up(checkout).splitlines()
    assert [line.partition(": ")[2][:4] for line in said] == ["inst", "1/3 ", "2/3 ", "3/3 ", "done"]
    assert "minutes" in said[0]
    assert "GB" in said[0]
    assert all(" MB" in line for line in said[1:3])
    assert "2 packages" in said[2]


def test_a_second_run_installs_nothing_and_is_silent(checkout):
    set_up(checkout)
    calls = checkout / ".venv/bin/pip.calls"
    before = calls.read_text()
    assert set_up(checkout) == ""
    assert calls.read_text() == before


def test_a_torch_that_no_lock_has_is_refused(checkout):
    (checkout / "scripts/locks/torch.txt").write_text("torch==2.0 --hash=sha256:0\n")
    with pytest.raises(AssertionError, match=r"torch-2\.0\+cpu.* is not one of the files"):
        set_up(checkout)


def test_it_leaves_no_downloads_behind(checkout):
    set_up(checkout)
    assert {path.name for path in (checkout / ".venv").iterdir()} == {"bin", ".ringfeed-stamp"}
