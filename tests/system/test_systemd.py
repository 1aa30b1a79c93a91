"""The systemd installer: what it plans, what it stages below a prefix, and what systemd thinks of the unit."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import replace
from importlib.machinery import SourceFileLoader
from pathlib import Path

import pytest

from ringfeedd import errors
from ringfeedd.config import load_config

SCRIPT = Path(__file__).parents[2] / "scripts/install-systemd"
LOADER = SourceFileLoader("install_systemd", str(SCRIPT))
installer = importlib.util.module_from_spec(importlib.util.spec_from_loader(LOADER.name, LOADER))
sys.modules[LOADER.name] = installer  # dataclasses look their module up
sys.dont_write_bytecode, keep = True, sys.dont_write_bytecode
LOADER.exec_module(installer)
sys.dont_write_bytecode = keep


@pytest.fixture
def executable(tmp_path):
    """A stand-in for the `ringfeed` command."""
    path = tmp_path / "bin" / "ringfeed"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare_host(monkeypatch, tmp_path):
    """A host that has systemd and root, and nothing of ours; its files would lie below a folder of the test."""
    for name in ("UNIT", "CONFIG"):
        monkeypatch.setattr(installer, name, tmp_path / "host" / getattr(installer, name).relative_to("/"))
    return installer.Host(
        is_root=True, has_systemd=True, has_user=False, user_is_ours=False, groups=frozenset(), prefix=None
    )


def run(*arguments, **environ):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env={**os.environ, "DESTDIR": "", **environ},
        capture_output=True,
        text=True,
        check=False,
    )


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def unit_settings(text):
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def test_an_install_below_a_prefix_writes_the_unit_and_an_example_config(tmp_path, executable):
    done = run("--prefix", tmp_path / "root", "--exec", executable)
    assert done.returncode == 0, done.stderr
    files = files_below(tmp_path / "root")
    assert sorted(files) == ["etc/ringfeed/ringfeed.toml", "etc/systemd/system/ringfeed.service"]
    settings = unit_settings(files["etc/systemd/system/ringfeed.service"])
    assert settings["ExecStart"] == f"{executable} serve --config /etc/ringfeed/ringfeed.toml"
    assert "@" not in re.sub(r"^#.*$", "", files["etc/systemd/system/ringfeed.service"], flags=re.MULTILINE)
    for path in (tmp_path / "root").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_the_modes_do_not_depend_on_the_umask_of_the_shell(tmp_path, executable):
    arguments = [sys.executable, SCRIPT, "--prefix", tmp_path / "root", "--exec", executable]
    subprocess.run(arguments, check=True, capture_output=True, umask=0o077)
    assert (tmp_path / "root/etc/ringfeed").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "root/etc/ringfeed/ringfeed.toml").stat().st_mode & 0o777 == 0o644


def test_the_unit_keeps_the_ring_where_consumers_find_it(tmp_path, executable):
    settings = unit_settings(installer.unit_text(executable, "ringfeed"))
    expected = {
        "Type": "notify",
        "User": "ringfeed",
        "RemoveIPC": "no",
        "UMask": "0007",
        "KillMode": "mixed",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "2 75 78",
        "LimitMEMLOCK": "infinity",
        "OOMPolicy": "continue",
    }
    assert {name: settings.get(name) for name in expected} == expected
    # each of these would give the service a /dev/shm or an IPC namespace of its own, or a user that changes
    assert not {"DynamicUser", "PrivateIPC", "TemporaryFileSystem", "RootDirectory", "InaccessiblePaths"} & set(
        settings
    )
    assert int(settings["WatchdogSec"]) > 0
    assert int(settings["TimeoutStopSec"]) > 5  # the daemon itself promises 5 s


def test_the_exit_codes_that_are_not_retried_are_the_daemons_own():
    codes = {errors.EXIT_USAGE, errors.EXIT_ALREADY_RUNNING, errors.EXIT_BAD_CONFIG}
    settings = unit_settings((SCRIPT.parent / "ringfeed.service").read_text())
    assert {int(code) for code in settings["RestartPreventExitStatus"].split()} == codes


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("folder", ["plain", "with space, and comma"])
@pytest.mark.parametrize("group", ["ringfeed", "root"])
def test_systemd_itself_finds_nothing_to_complain_about(tmp_path, folder, group):
    executable = tmp_path / folder / "ringfeed"
    executable.parent.mkdir()
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    assert run("--prefix", tmp_path / "root", "--exec", executable, "--group", group).returncode == 0
    unit = tmp_path / "root/etc/systemd/system/ringfeed.service"
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    complaints = [line for line in checked.stderr.splitlines() if "ringfeed" in line]
    assert (checked.returncode, complaints) == (0, []), checked.stderr


def test_a_second_install_changes_nothing(tmp_path, executable):
    run("--prefix", tmp_path / "root", "--exec", executable)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")}
    again = run("--prefix", tmp_path / "root", "--exec", executable)
    assert again.returncode == 0
    assert again.stdout.startswith("nothing to do")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")} == before


def test_an_install_never_overwrites_the_config_but_updates_the_unit(tmp_path, executable):
    run("--prefix", tmp_path / "root", "--exec", executable)
    config = tmp_path / "root/etc/ringfeed/ringfeed.toml"
    config.write_text('root = "gs://mine"\n')
    moved = executable.rename(executable.with_name("ringfeed-2"))
    run("--prefix", tmp_path / "root", "--exec", moved)
    assert config.read_text() == 'root = "gs://mine"\n'
    assert f"ExecStart={moved} " in (tmp_path / "root/etc/systemd/system/ringfeed.service").read_text()


def test_an_uninstall_removes_what_was_installed_and_purge_the_config(tmp_path, executable):
    root = tmp_path / "root"
    run("--prefix", root, "--exec", executable)
    (root / "etc/systemd/system/other.service").write_text("[Service]\n")
    assert run("--prefix", root, "--uninstall").returncode == 0
    assert sorted(files_below(root)) == ["etc/ringfeed/ringfeed.toml", "etc/systemd/system/other.service"]
    (root / "etc/ringfeed/key.json").write_text("{}")
    assert run("--prefix", root, "--uninstall", "--purge").returncode == 0
    assert sorted(files_below(root)) == ["etc/ringfeed/key.json", "etc/systemd/system/other.service"]  # not ours
    (root / "etc/ringfeed/key.json").unlink()
    assert run("--prefix", root, "--uninstall", "--purge").returncode == 0
    assert not (root / "etc/ringfeed").exists()


@pytest.mark.parametrize("action", [[], ["--uninstall"]])
def test_a_unit_of_somebody_else_is_neither_changed_nor_removed(tmp_path, executable, action):
    unit = tmp_path / "root/etc/systemd/system/ringfeed.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    exec_option = [] if action else ["--exec", executable]
    refused = run("--prefix", tmp_path / "root", *exec_option, *action)
    assert refused.returncode == 3
    assert "was not written by this script" in refused.stderr
    assert unit.read_text() == "[Service]\nExecStart=/bin/true\n"


def test_a_dry_run_prints_every_file_and_command_and_touches_nothing(tmp_path, executable):
    shown = run("--dry-run", "--prefix", tmp_path / "root", "--exec", executable)
    assert shown.returncode == 0
    assert not (tmp_path / "root").exists()
    for path in ("etc/ringfeed/ringfeed.toml", "etc/systemd/system/ringfeed.service"):
        assert f"write   {tmp_path}/root/{path}" in shown.stdout
    assert "  | Type=notify" in shown.stdout


def test_on_a_bare_host_the_user_comes_first_and_the_start_last(bare_host, executable):
    steps = installer.plan_install(bare_host, executable, "ringfeed", start=True)
    shown = [str(step).split()[1] if step.command else Path(step.path).name for step in steps]
    assert shown == ["useradd", "ringfeed.toml", "ringfeed.service", "systemctl", "systemctl"]
    assert steps[-1].command == ("systemctl", "enable", "--now", "ringfeed.service")
    assert "--system" in steps[0].command


def test_a_user_that_exists_is_not_made_again(bare_host, executable):
    steps = installer.plan_install(replace(bare_host, has_user=True), executable, "ringfeed", start=False)
    assert [step.command for step in steps if step.command] == [("systemctl", "daemon-reload")]


def test_an_existing_group_is_used_for_the_new_user(bare_host, executable):
    steps = installer.plan_install(
        replace(bare_host, groups=frozenset({"ringfeed"})), executable, "ringfeed", start=False
    )
    assert "--user-group" not in steps[0].command
    assert steps[0].command[2:4] == ("--gid", "ringfeed")


def test_another_group_is_given_to_the_service_and_to_the_config(bare_host, executable):
    host = replace(bare_host, groups=frozenset({"trainers"}))
    steps = installer.plan_install(host, executable, "trainers", start=False)
    texts = {step.path.name: step.content for step in steps if step.path}
    assert tomllib.loads(texts["ringfeed.toml"])["group"] == "trainers"
    assert unit_settings(texts["ringfeed.service"])["SupplementaryGroups"] == "trainers"
    with pytest.raises(installer.RefusedError, match="there is no group trainers"):
        installer.plan_install(bare_host, executable, "trainers", start=False)


def test_an_uninstall_stops_the_service_before_its_unit_goes_and_spares_a_user_that_is_not_ours(bare_host):
    installer.UNIT.parent.mkdir(parents=True)
    installer.UNIT.write_text(installer.MARK)
    steps = installer.plan_uninstall(replace(bare_host, has_user=True, user_is_ours=False), purge=True)
    assert [str(step) for step in steps] == [
        "run     systemctl disable --now ringfeed.service",
        f"remove  {installer.UNIT}",
        "run     systemctl daemon-reload",
    ]
    purged = installer.plan_uninstall(replace(bare_host, has_user=True, user_is_ours=True), purge=True)
    assert purged[-1].command == ("userdel", "ringfeed")


@pytest.mark.parametrize(
    ("facts", "sentence"), [({"is_root": False}, "needs root"), ({"has_systemd": False}, "not booted with systemd")]
)
def test_it_refuses_in_one_sentence_what_cannot_work(bare_host, executable, monkeypatch, capsys, facts, sentence):
    monkeypatch.setattr(installer, "read_host", lambda prefix: replace(bare_host, **facts))
    assert installer.main(["--exec", str(executable)]) == 3
    message = capsys.readouterr().err
    assert sentence in message
    assert message.count("\n") == 1
    assert not installer.UNIT.exists()


def test_an_executable_that_the_services_user_cannot_reach_is_refused():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        executable = Path(folder) / "bin" / "ringfeed"
        executable.parent.mkdir(mode=0o755)
        executable.write_text("#!/bin/sh\n")
        executable.chmod(0o755)
        assert installer.closed_to_others(executable) is None
        executable.parent.chmod(0o700)
        assert installer.closed_to_others(executable) == f"{executable.parent} is closed to other users (mode 0700)"


def test_a_closed_interpreter_is_as_bad_as_a_closed_command(tmp_path, executable):
    interpreter = tmp_path / "closed" / "python"
    interpreter.parent.mkdir(mode=0o700)
    interpreter.write_text("")
    executable.write_text(f"#!{interpreter}\n")
    assert installer.closed_to_others(executable) is not None


ANYBODY = None


def open_world(path):
    path.chmod(path.stat().st_mode | 0o002)


def open_group(path):
    path.chmod(path.stat().st_mode | 0o020)
    os.chown(path, 0, 65534)


def given_away(path):
    os.chown(path, 65534, -1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("open_up", [open_world, open_group, given_away])
@pytest.mark.parametrize(
    "part",
    [
        "bin",
        "bin/ringfeed",
        "bin/python",
        "lib/python3.11/site-packages",
        "lib/python3.11/site-packages/ringfeedd/cli/main.py",
    ],
)
def test_an_executable_that_others_may_change_is_refused(bare_host, tmp_path, monkeypatch, capsys, part, open_up):
    environment = tmp_path / "venv"
    package = environment / "lib/python3.11/site-packages/ringfeedd"
    for folder in (environment / "bin", package):
        folder.mkdir(parents=True)
    (environment / "pyvenv.cfg").write_text("")
    (environment / "bin/python").write_text("")
    (environment / "bin/ringfeed").write_text(f"#!{environment}/bin/python\n")
    (environment / "bin/ringfeed").chmod(0o755)
    (package / "main.py").write_text("")
    link = tmp_path / "ringfeed"
    link.symlink_to(environment / "bin/ringfeed")
    monkeypatch.setattr(installer, "read_host", lambda prefix: bare_host)
    monkeypatch.setattr(installer, "closed_to_others", lambda executable: None)
    monkeypatch.setattr(installer, "carry_out", lambda step: None)
    assert installer.main(["--exec", str(environment / "bin/ringfeed")]) == 0
    open_up(environment / part)
    for command in (environment / "bin/ringfeed", link):
        if command is link and part.startswith("lib"):
            continue
        assert installer.main(["--exec", str(command)]) == 3
        said = capsys.readouterr().err
        assert f"{environment / part} (mode" in said
        assert said.count("\n") == 1


def test_a_link_through_a_folder_that_others_may_write_is_refused(tmp_path, executable):
    between = tmp_path / "between"
    between.mkdir()
    (between / "bin").symlink_to(executable.parent)
    link = tmp_path / "ringfeed"
    link.symlink_to("between/bin/ringfeed")
    assert installer.open_to_changes(link, ANYBODY) is None
    between.chmod(0o777)
    assert f"any user may write {between} " in installer.open_to_changes(link, ANYBODY)
    between.chmod(0o1777)  # as /tmp: the link cannot be replaced by others
    assert installer.open_to_changes(link, ANYBODY) is None


def test_a_draft_that_somebody_linked_elsewhere_is_not_followed(tmp_path, executable):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    folder = tmp_path / "root/etc/ringfeed"
    folder.mkdir(parents=True)
    (folder / ".ringfeed.toml.new").symlink_to(precious)
    assert run("--prefix", tmp_path / "root", "--exec", executable).returncode == 0
    assert precious.read_text() == "mine"
    assert (folder / "ringfeed.toml").is_file()


@pytest.mark.parametrize(
    "arguments",
    [["--purge"], ["--uninstall", "--now"], ["--group", "no such!"], ["--nonsense"]],
)
def test_a_command_line_without_meaning_is_a_usage_error(arguments):
    assert run(*arguments).returncode == 2


@pytest.mark.parametrize("name", ["missing", "per%cent", "dol$lar", 'quo"te'])
def test_an_executable_that_a_unit_cannot_name_is_refused(tmp_path, name):
    if name != "missing":
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    refused = run("--prefix", tmp_path / "root", "--exec", tmp_path / name)
    assert refused.returncode == 3
    assert not (tmp_path / "root").exists()


def test_the_example_config_loads_and_tells_the_real_defaults(tmp_path):
    text = (SCRIPT.parent / "ringfeed.toml").read_text()
    plain, complete = tmp_path / "plain.toml", tmp_path / "complete.toml"
    plain.write_text(text)
    complete.write_text(re.sub(r"^# (?=\w+ = )", "", text, flags=re.MULTILINE))
    default, shown = load_config(plain, {}), load_config(complete, {})
    no_default = {"ring": "NAME", "slots": 512, "emulator": "http://127.0.0.1:9023"}
    no_default |= {"num_nodes": 2, "node_rank": 0}
    no_default |= {"user_project": "my-project", "http_token_file": "/etc/ringfeed/http-token"}
    differing = {
        name: getattr(shown, name) for name in shown.__struct_fields__ if getattr(shown, name) != getattr(default, name)
    }
    assert differing == no_default
    assert default.root == "gs://my-bucket/prefix"
