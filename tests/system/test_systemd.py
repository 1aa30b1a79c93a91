"""`ringfeed install-service`: what it plans, what it stages below a prefix, and what systemd thinks of the units."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from ringfeedd import errors
from ringfeedd.cli.install import command, files, plan, trust
from ringfeedd.cli.install.host import Host
from ringfeedd.cli.install.steps import InstallError, Step
from ringfeedd.cli.main import main
from ringfeedd.config import load

SCRIPT = Path(__file__).parents[2] / "scripts/install-systemd"
TEMPLATES = Path(files.__file__).parent / "templates"
BARE = Host(is_root=True, has_systemd=True, has_user=False, user_is_ours=False, groups=frozenset(), systemd=252)

CONFIG, UNIT, TEMPLATE, SYSUSERS = STAGED = (
    "etc/ringfeed/ringfeed.toml",
    "etc/systemd/system/ringfeed.service",
    "etc/systemd/system/ringfeed@.service",
    "etc/sysusers.d/ringfeed.conf",
)


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
    for name in ("UNITS", "CONFIGS", "SYSUSERS"):
        monkeypatch.setattr(files, name, tmp_path / "host" / getattr(files, name).relative_to("/"))
    return BARE


def run(*arguments):
    """Run the command in this process."""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            code = main(["install-service", *map(str, arguments)])
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(arguments, code, said.getvalue(), complained.getvalue())


@pytest.fixture(autouse=True)
def no_destdir(monkeypatch):
    monkeypatch.delenv("DESTDIR", raising=False)


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def unit_settings(text):
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def test_an_install_below_a_prefix_stages_every_file(tmp_path, executable):
    done = run("--prefix", tmp_path / "root", "--exec", executable)
    assert done.returncode == 0, done.stderr
    found = files_below(tmp_path / "root")
    assert sorted(found) == sorted(STAGED)
    assert unit_settings(found[UNIT])["ExecStart"] == f"{executable} serve --config /etc/ringfeed/ringfeed.toml"
    assert unit_settings(found[TEMPLATE])["ExecStart"] == f"{executable} serve --config /etc/ringfeed/%i.toml"
    for unit in (UNIT, TEMPLATE):
        assert not re.search(r"@[A-Z_]+@", found[unit])
    assert 'u ringfeed - "Ringfeed prefetch daemon" /nonexistent /usr/sbin/nologin' in found[SYSUSERS]
    for path in (tmp_path / "root").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644)


def test_the_script_of_a_checkout_calls_the_command(tmp_path):
    ringfeed = tmp_path / "ringfeed"
    ringfeed.write_text('#!/bin/sh\necho "$@"\n')
    ringfeed.chmod(0o755)
    for exec_option in (["--exec", ringfeed], [f"--exec={ringfeed}"]):
        called = subprocess.check_output([sys.executable, SCRIPT, "--dry-run", *exec_option], text=True)
        assert called.split() == ["install-service", "--dry-run", *map(str, exec_option)]


def test_several_configs_serve_rings_of_their_own(tmp_path, executable):
    root = tmp_path / "root"
    assert run("--prefix", root, "--exec", executable, "--config", "opx", "eval").returncode == 0
    found = files_below(root)
    assert {"etc/ringfeed/opx.toml", "etc/ringfeed/eval.toml"} < set(found)
    assert CONFIG not in found
    assert tomllib.loads(found["etc/ringfeed/opx.toml"])["ring"] == "opx"
    steps = plan.plan_install(BARE, executable, "ringfeed", ["ringfeed", "opx"], start=True)
    assert steps[-1].command == ("systemctl", "enable", "--now", "ringfeed.service", "ringfeed@opx.service")


def test_one_of_several_configs_can_be_removed(bare_host, tmp_path):
    for unit in (files.UNIT, files.TEMPLATE):
        (files.UNITS / unit).parent.mkdir(parents=True, exist_ok=True)
        (files.UNITS / unit).write_text(files.MARKS[0])
    files.CONFIGS.mkdir(parents=True)
    (files.CONFIGS / "opx.toml").write_text("")
    stopped = Step(("systemctl", "disable", "--now", "ringfeed@opx.service"))
    assert plan.plan_uninstall(bare_host, ["opx"], purge=False) == [stopped]
    assert plan.plan_uninstall(bare_host, ["opx"], purge=True) == [stopped, Step(path=files.CONFIGS / "opx.toml")]


def test_the_modes_do_not_depend_on_the_umask(tmp_path, executable):
    before = os.umask(0o077)
    try:
        run("--prefix", tmp_path / "root", "--exec", executable)
    finally:
        os.umask(before)
    assert (tmp_path / "root/etc/ringfeed").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "root" / CONFIG).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(("systemd", "kind"), [(0, "notify"), (252, "notify"), (253, "notify-reload")])
def test_a_reload_is_awaited_where_systemd_can(executable, systemd, kind):
    settings = unit_settings(files.unit_text(executable, "ringfeed", replace(BARE, systemd=systemd), instances=False))
    assert settings["Type"] == kind
    assert ("ExecReload" in settings) == (kind == "notify")  # notify-reload sends SIGHUP by itself


def test_the_unit_names_the_installed_documents(tmp_path, executable):
    def documentation():
        return unit_settings(files.unit_text(executable, "ringfeed", BARE, instances=False)).get("Documentation")

    assert documentation() is None
    folder = tmp_path / "share/doc/ringfeed"
    folder.mkdir(parents=True)
    for name in ("operations.md", "troubleshooting.md"):
        (folder / name).write_text("")
    assert documentation() == f"{folder.as_uri()}/operations.md {folder.as_uri()}/troubleshooting.md"


@pytest.mark.parametrize("instances", [False, True])
def test_the_unit_keeps_the_ring_findable_by_consumers(executable, instances):
    settings = unit_settings(files.unit_text(executable, "ringfeed", BARE, instances=instances))
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
    assert not {
        "DynamicUser",
        "PrivateIPC",
        "TemporaryFileSystem",
        "RootDirectory",
        "InaccessiblePaths",
        "PrivateUsers",
    } & set(settings)
    assert int(settings["WatchdogSec"]) > 0
    assert int(settings["TimeoutStopSec"]) > 5  # the daemon itself promises 5 s


def test_unretried_exit_codes_are_the_daemons_own():
    codes = {errors.EXIT_USAGE, errors.EXIT_ALREADY_RUNNING, errors.EXIT_BAD_CONFIG}
    settings = unit_settings((TEMPLATES / "ringfeed.service").read_text())
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
    # verify loads no template by its file, and an instance by a link
    instance = tmp_path / "root" / TEMPLATE.replace("@", "@opx")
    instance.symlink_to("ringfeed@.service")
    for unit in (tmp_path / "root" / UNIT, instance):
        checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        complaints = [line for line in checked.stderr.splitlines() if "ringfeed" in line]
        assert (checked.returncode, complaints) == (0, []), checked.stderr


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("group", ["ringfeed", "root"])
def test_the_sandbox_leaves_little_exposed(tmp_path, executable, group):
    assert run("--prefix", tmp_path / "root", "--exec", executable, "--group", group).returncode == 0
    shown = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", tmp_path / "root" / UNIT],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in shown.stderr:
        pytest.skip("this systemd-analyze knows running units only")
    exposure = re.search(r"Overall exposure level for ringfeed.service: ([0-9.]+)", shown.stdout)
    assert float(exposure[1]) <= 2.0, shown.stdout


def test_a_second_install_changes_nothing(tmp_path, executable):
    run("--prefix", tmp_path / "root", "--exec", executable)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")}
    again = run("--prefix", tmp_path / "root", "--exec", executable)
    assert again.returncode == 0
    assert again.stdout.startswith("nothing to do")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")} == before


def test_an_install_updates_the_unit_only(tmp_path, executable):
    """It never overwrites the configuration."""
    run("--prefix", tmp_path / "root", "--exec", executable)
    config = tmp_path / "root" / CONFIG
    config.write_text('root = "gs://mine"\n')
    moved = executable.rename(executable.with_name("ringfeed-2"))
    run("--prefix", tmp_path / "root", "--exec", moved)
    assert config.read_text() == 'root = "gs://mine"\n'
    assert f"ExecStart={moved} " in (tmp_path / "root/etc/systemd/system/ringfeed.service").read_text()


def test_uninstall_removes_the_installation_and_purge_the_config(tmp_path, executable):
    root = tmp_path / "root"
    run("--prefix", root, "--exec", executable)
    (root / "etc/systemd/system/other.service").write_text("[Service]\n")
    assert run("--prefix", root, "--uninstall").returncode == 0
    assert sorted(files_below(root)) == [CONFIG, "etc/systemd/system/other.service", SYSUSERS]
    (root / "etc/ringfeed/key.json").write_text("{}")
    assert run("--prefix", root, "--uninstall", "--purge").returncode == 0
    assert sorted(files_below(root)) == ["etc/ringfeed/key.json", "etc/systemd/system/other.service"]  # not ours
    (root / "etc/ringfeed/key.json").unlink()
    assert run("--prefix", root, "--uninstall", "--purge").returncode == 0
    assert not (root / "etc/ringfeed").exists()


@pytest.mark.parametrize("action", [[], ["--uninstall"]])
def test_another_owners_unit_is_left_alone(tmp_path, executable, action):
    """It is neither changed nor removed."""
    unit = tmp_path / "root/etc/systemd/system/ringfeed.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    exec_option = [] if action else ["--exec", executable]
    refused = run("--prefix", tmp_path / "root", *exec_option, *action)
    assert refused.returncode == 3
    assert "was not written by `ringfeed install-service`" in refused.stderr
    assert unit.read_text() == "[Service]\nExecStart=/bin/true\n"


def test_a_dry_run_prints_everything_and_changes_nothing(tmp_path, executable):
    shown = run("--dry-run", "--prefix", tmp_path / "root", "--exec", executable)
    assert shown.returncode == 0
    assert not (tmp_path / "root").exists()
    for path in STAGED:
        assert f"write   {tmp_path}/root/{path}" in shown.stdout
    assert "  | Type=notify" in shown.stdout


def test_an_older_releases_unit_is_replaced(tmp_path, executable):
    unit = tmp_path / "root" / UNIT
    unit.parent.mkdir(parents=True)
    unit.write_text("# Installed by scripts/install-systemd, which also removes it.\n")
    assert run("--prefix", tmp_path / "root", "--exec", executable).returncode == 0
    assert "install-service" in unit.read_text()


def test_the_user_comes_first_and_start_last(bare_host, executable):
    """On a machine without an installation."""
    steps = plan.plan_install(bare_host, executable, "ringfeed", ["ringfeed"], start=True)
    shown = [Path(step.command[0]).name if step.command else step.path.name for step in steps]
    assert shown[:2] == ["ringfeed.conf", "systemd-sysusers"]
    assert shown[2:5] == ["ringfeed.toml", "ringfeed.service", "ringfeed@.service"]
    assert [step.command for step in steps[5:]] == [
        ("systemctl", "daemon-reload"),
        ("systemctl", "enable", "--now", "ringfeed.service"),
    ]


def test_a_user_that_exists_is_not_made_again(bare_host, executable):
    steps = plan.plan_install(replace(bare_host, has_user=True), executable, "ringfeed", ["ringfeed"], start=False)
    assert [step.command for step in steps if step.command] == [("systemctl", "daemon-reload")]


def test_another_group_goes_into_service_and_config(bare_host, executable):
    host = replace(bare_host, groups=frozenset({"trainers"}))
    steps = plan.plan_install(host, executable, "trainers", ["ringfeed"], start=False)
    texts = {step.path.name: step.content for step in steps if step.path}
    assert tomllib.loads(texts["ringfeed.toml"])["group"] == "trainers"
    assert unit_settings(texts["ringfeed.service"])["SupplementaryGroups"] == "trainers"
    with pytest.raises(InstallError, match="there is no group trainers"):
        plan.plan_install(bare_host, executable, "trainers", ["ringfeed"], start=False)


def test_uninstall_stops_services_before_removing_the_unit(bare_host):
    for unit in (files.UNIT, files.TEMPLATE):
        (files.UNITS / unit).parent.mkdir(parents=True, exist_ok=True)
        (files.UNITS / unit).write_text(files.MARKS[1])
    host = replace(bare_host, has_user=True, user_is_ours=False, instances=("opx",))
    assert [str(step) for step in plan.plan_uninstall(host, [], purge=True)] == [
        "run     systemctl disable --now ringfeed.service ringfeed@opx.service",
        "run     systemctl stop 'ringfeed@*.service'",
        f"remove  {files.UNITS / files.UNIT}",
        f"remove  {files.UNITS / files.TEMPLATE}",
        "run     systemctl daemon-reload",
    ]
    purged = plan.plan_uninstall(replace(host, user_is_ours=True), [], purge=True)
    assert purged[-1].command == ("userdel", "ringfeed")


@pytest.mark.parametrize(
    ("facts", "sentence"), [({"is_root": False}, "needs root"), ({"has_systemd": False}, "not booted with systemd")]
)
def test_it_refuses_in_one_sentence_what_cannot_work(bare_host, executable, monkeypatch, facts, sentence):
    monkeypatch.setattr(command, "read_host", lambda prefix, units: replace(bare_host, **facts))
    refused = run("--exec", executable)
    assert refused.returncode == 3
    message = refused.stderr
    assert sentence in message
    assert message.count("\n") == 1
    assert not files.UNITS.exists()


def test_an_executable_unreachable_for_the_user_is_refused():
    """The service's user cannot reach it."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        executable = Path(folder) / "bin" / "ringfeed"
        executable.parent.mkdir(mode=0o755)
        executable.write_text("#!/bin/sh\n")
        executable.chmod(0o755)
        assert trust.closed_to_others(executable) is None
        executable.parent.chmod(0o700)
        assert trust.closed_to_others(executable) == f"{executable.parent} is closed to other users (mode 0700)"


def test_a_closed_interpreter_is_as_bad(tmp_path, executable):
    """As a command that the service's user may not run."""
    interpreter = tmp_path / "closed" / "python"
    interpreter.parent.mkdir(mode=0o700)
    interpreter.write_text("")
    executable.write_text(f"#!{interpreter}\n")
    assert trust.closed_to_others(executable) is not None


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
        "lib/python3.11/site-packages/ringfeedd/main.py",
    ],
)
def test_an_executable_that_others_may_change_is_refused(bare_host, tmp_path, monkeypatch, part, open_up):
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
    monkeypatch.setattr(command, "read_host", lambda prefix, units: bare_host)
    monkeypatch.setattr(command, "closed_to_others", lambda executable: None)
    monkeypatch.setattr(command, "carry_out", lambda step: None)
    assert run("--exec", environment / "bin/ringfeed").returncode == 0
    open_up(environment / part)
    for executable in (environment / "bin/ringfeed", link):
        if executable is link and part.startswith("lib"):
            continue
        refused = run("--exec", executable)
        assert refused.returncode == 3
        said = refused.stderr
        assert f"{environment / part} (mode" in said
        assert said.count("\n") == 1


def test_a_link_through_a_writable_folder_is_refused(tmp_path, executable):
    """Other users may write there."""
    between = tmp_path / "between"
    between.mkdir()
    (between / "bin").symlink_to(executable.parent)
    link = tmp_path / "ringfeed"
    link.symlink_to("between/bin/ringfeed")
    assert trust.open_to_changes(link, ANYBODY) is None
    between.chmod(0o777)
    assert f"any user may write {between} " in trust.open_to_changes(link, ANYBODY)
    between.chmod(0o1777)  # as /tmp: the link cannot be replaced by others
    assert trust.open_to_changes(link, ANYBODY) is None


def test_a_linked_draft_is_not_followed(tmp_path, executable):
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
    [["--purge"], ["--uninstall", "--now"], ["--group", "no such!"], ["--nonsense"], ["--config"], ["--config", "a/b"]],
)
def test_a_meaningless_command_line_is_a_usage_error(arguments):
    assert run(*arguments).returncode == 2


@pytest.mark.parametrize("name", ["missing", "per%cent", "dol$lar", 'quo"te'])
def test_an_executable_no_unit_can_name_is_refused(tmp_path, name):
    if name != "missing":
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    refused = run("--prefix", tmp_path / "root", "--exec", tmp_path / name)
    assert refused.returncode == 3
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("name", ["ringfeed", "other"])
def test_the_installed_config_has_every_setting_and_loads(tmp_path, name):
    path = tmp_path / "installed.toml"
    path.write_text(files.config_text(name, "trainers"))
    loaded = load(path, {}, {})
    assert set(loaded.origins) == {"root", "group", "store_wait_s"} | ({"ring"} if name == "other" else set())
    assert (loaded.config.group, loaded.config.ring) == ("trainers", "other" if name == "other" else None)
    unit = "ringfeed" if name == "ringfeed" else "ringfeed@other"
    assert f"ringfeed config check /etc/ringfeed/{name}.toml" in path.read_text()
    assert f"systemctl reload {unit};" in path.read_text()
