"""The story of scripts/try-systemd: an operator's machine from the installation of the service to its removal."""

from __future__ import annotations

import argparse
import fcntl
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from machine import CACHE, REPOSITORY, VENV, Machine, TrialError, base, call, missing, wait_for
from PIL import Image

EXIT_FAILED, EXIT_CANNOT = 1, 3
PAIRS, ADDED, CLASSES, SIDE = 200, 10, 250, 32
GROUPS, RANKS = ("a", "b"), 2
EXPOSURE = 2.0
PORT = 9023
PYTHON = f"{VENV}/bin/python"
WORK = Path("/srv/trial")
TOKEN, OWN_TOKEN = "a-token-of-thirty-two-characters", "a-token-of-the-second-config-only"  # of a machine for a minute

EMULATOR_UNIT = f"""
[Unit]
Description=A bucket on this machine
Before=ringfeed.service
[Service]
User=nobody
ExecStart={PYTHON} -m ringfeedd.fakegcs /srv/bucket --port {PORT}
[Install]
WantedBy=multi-user.target
"""
CONFIG = f"""
root = "gs://my-bucket"
emulator = "http://127.0.0.1:{PORT}"
group = "ringfeed"
test_ratio = 0.0
slots = 128
workers = 2
label_mode = "index"
http = "127.0.0.1:9753"
store_wait_s = 60.0
"""
SECOND_CONFIG = """
root = "/srv/bucket/my-bucket"
ring = "second"
test_ratio = 0.0
slots = 16
workers = 1
http = "0.0.0.0:9754"
"""
FASTER = """
[Service]
WatchdogSec=4
RestartSec=1
"""
"""The trial's own pace: the unit's 30 s and 5 s would only make it longer."""


def write_pairs(folder: Path, numbers: range) -> None:
    """Write pairs whose pixels all have the value of their number modulo `CLASSES`."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        value = number % CLASSES
        Image.fromarray(np.full((SIDE, SIDE, 3), value, np.uint8)).save(folder / f"images/{number}.jpg", quality=95)
        label = Image.fromarray(np.full((SIDE, SIDE), value, np.uint8), "P")
        label.putpalette(random.Random(0).randbytes(768))
        label.save(folder / f"labels/{number}.png")


def build(folder: Path) -> Path:
    """Build the checkout's wheel in a folder."""
    call(sys.executable, "-m", "build", "--wheel", "--outdir", folder, REPOSITORY)
    return next(folder.glob("ringfeed-*.whl"))


class Trial:
    """What the operator does, and what must hold after each step."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.trainers: list[subprocess.Popen[str]] = []

    def say(self, text: str) -> None:
        """Print one result."""
        print(f"  {text}", flush=True)

    def expect(self, what: str, holds: bool) -> None:
        """Raise TrialError unless it holds."""
        if not holds:
            raise TrialError(f"not so: {what}")

    # Before the first boot.

    def prepare(self, wheel: Path) -> None:
        """Put a bucket, two users and the wheel into the machine's files."""
        root = self.machine.root
        write_pairs(root / "srv/bucket/my-bucket", range(PAIRS))
        for path in (root / "srv/bucket").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.copy(wheel, root / "root")
        install = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", f"/root/{wheel.name}")
        call("chroot", root, f"{VENV}/bin/pip", "install", *install)
        (root / "etc/systemd/system/bucket.service").write_text(EMULATOR_UNIT)
        call("chroot", root, "systemctl", "enable", "bucket.service")
        for user in ("alice", "mallory"):
            call("chroot", root, "useradd", "--create-home", user)

    # The service.

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.machine.run("systemctl", "show", unit, "--property", name, "--value").strip()

    def install(self) -> None:
        """Install the service as the documents say, and start it with a config of the trial."""
        root = self.machine.root
        self.machine.run(f"{VENV}/bin/ringfeed", "install-service", "--config", "ringfeed", "second")
        for name, text in (("ringfeed", CONFIG), ("second", SECOND_CONFIG)):
            example = root / f"etc/ringfeed/{name}.toml"
            self.expect(f"{example} is there to be edited", "root = " in example.read_text())
            example.write_text(text)
        for name, secret in (("http-token", TOKEN), ("second.http-token", OWN_TOKEN)):
            token = root / "etc/ringfeed" / name
            token.write_text(secret)
            token.chmod(0o600)
        for unit in ("ringfeed.service", "ringfeed@.service"):
            drop_in = root / f"etc/systemd/system/{unit}.d/faster.conf"
            drop_in.parent.mkdir()
            drop_in.write_text(FASTER)
        self.machine.run("systemctl", "daemon-reload")
        self.machine.run("usermod", "--append", "--groups", "ringfeed", "alice")
        complaints = self.machine.run("systemd-analyze", "verify", "ringfeed.service", "ringfeed@second.service")
        self.expect(f"systemd-analyze verify has no complaints: {complaints}", not complaints)
        began = time.monotonic()
        self.machine.run("systemctl", "enable", "--now", "ringfeed", "ringfeed@second")
        self.say(f"installed and started in {time.monotonic() - began:.1f} s ({self.show('ringfeed', 'Type')})")
        again = self.machine.run(f"{VENV}/bin/ringfeed", "install-service", "--config", "ringfeed", "second")
        self.expect(f"a second install changes nothing: {again}", again.startswith("nothing to do"))

    def check_exposure(self) -> None:
        """Print what systemd says of the sandbox."""
        for unit in ("ringfeed.service", "ringfeed@second.service"):
            last = self.machine.run("systemd-analyze", "security", "--no-pager", unit).strip().splitlines()[-1]
            exposure = float(last.partition(": ")[2].split()[0])
            self.say(f"exposure of {unit}: {exposure}")
            self.expect(f"an exposure of at most {EXPOSURE}", exposure <= EXPOSURE)

    def check_token(self) -> None:
        """Each page asks for the token that lies in a file of root, as systemd loaded it."""
        for port, token, others in ((9753, TOKEN, OWN_TOKEN), (9754, OWN_TOKEN, TOKEN)):
            self.expect(f"the page of port {port} answers its token", self.asked(port, token))
            self.expect(f"the page of port {port} refuses another token", not self.asked(port, others))
        self.say("each config's token comes from a file that only root may read")

    def asked(self, port: int, token: str) -> bool:
        """Return whether the page answers a request with this token."""
        request = f"r.Request('http://127.0.0.1:{port}/metrics', headers={{'Authorization': 'Bearer {token}'}})"
        return self.machine.code(PYTHON, "-c", f"import urllib.request as r; r.urlopen({request})") == 0

    # The trainers.

    def start_trainers(self) -> None:
        """Start two groups of two ranks of another user, who is in the ring's group."""
        folder = self.machine.root / WORK.relative_to("/")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        folder.chmod(0o777)
        shutil.copy(Path(__file__).with_name("trainer.py"), folder)
        self.trainers = [
            self.machine.start("alice", PYTHON, f"{WORK}/trainer.py", "train", group, str(rank), str(RANKS), str(WORK))
            for group in GROUPS
            for rank in range(RANKS)
        ]
        self.progress("the trainers read")

    def lines(self, group: str, rank: int) -> list[tuple[int, list[str]]]:
        """Return what a rank has logged: epoch and ids of each batch."""
        log = self.machine.root / WORK.relative_to("/") / f"{group}.{rank}"
        complete = log.read_text().rpartition("\n")[0] if log.exists() else ""
        return [tuple(json.loads(line)) for line in complete.splitlines()]

    def progress(self, what: str, batches: int = 20) -> float:
        """Wait until every rank has read some more batches; return the seconds."""
        ranks = [(group, rank) for group in GROUPS for rank in range(RANKS)]
        goals = {each: len(self.lines(*each)) + batches for each in ranks}

        def reached() -> bool:
            for trainer in self.trainers:
                if trainer.poll() is not None:
                    raise TrialError(f"a trainer ended with {trainer.returncode}: {trainer.stdout.read()[-2000:]}")
            return all(len(self.lines(*each)) >= goal for each, goal in goals.items())

        return wait_for(what, reached, 60)

    def stop_trainers(self) -> None:
        """Let the trainers end with an epoch, and audit what they read."""
        newest = max(self.lines(group, rank)[-1][0] for group in GROUPS for rank in range(RANKS))
        draft = self.machine.root / WORK.relative_to("/") / "draft"
        draft.write_text(str(newest + 2))
        draft.rename(draft.with_name("until"))
        for trainer in self.trainers:
            output, _ = trainer.communicate(timeout=60)
            self.expect(f"a trainer ends well: {output[-2000:]}", trainer.returncode == 0)
        for group in GROUPS:
            self.audit(group, newest + 2)

    def audit(self, group: str, end: int) -> None:
        """Raise TrialError unless the ranks of a group got every pair of every epoch exactly once."""
        counts: dict[int, Counter[str]] = {}
        for rank in range(RANKS):
            for epoch, ids in self.lines(group, rank):
                counts.setdefault(epoch, Counter()).update(ids)
        catalogs = [{str(number) for number in range(pairs)} for pairs in (PAIRS, PAIRS + ADDED)]
        for epoch, ids in sorted(counts.items())[1:]:  # the first one may have begun before this group came
            twice = [pair_id for pair_id, count in ids.items() if count > 1]
            self.expect(f"group {group} gets no pair of epoch {epoch} twice: {twice[:5]}", not twice)
            self.expect(f"group {group} misses no pair of epoch {epoch} ({len(ids)} ids)", set(ids) in catalogs)
        self.expect(f"group {group} reads every epoch", sorted(counts) == list(range(min(counts), end)))
        self.say(f"group {group}: epochs {min(counts)} to {end - 1}, every pair exactly once, every pixel right")

    # What happens to the service.

    def restart(self) -> None:
        """`systemctl restart` under the trainers."""
        self.machine.run("systemctl", "restart", "ringfeed")
        self.say(
            f"systemctl restart: all ranks read on {self.progress('the trainers read after a restart'):.1f} s later"
        )

    def kill(self) -> None:
        """`kill -9` of the supervisor."""
        before = int(self.show("ringfeed", "NRestarts"))
        self.machine.run("systemctl", "kill", "--signal=KILL", "--kill-who=main", "ringfeed")
        seconds = self.progress("the trainers read after a kill -9")
        self.expect("systemd restarted the killed daemon", int(self.show("ringfeed", "NRestarts")) == before + 1)
        self.say(f"kill -9: systemd restarts it, all ranks read on {seconds:.1f} s later")

    def hang(self) -> None:
        """A daemon that hangs: the watchdog ends it."""
        before = int(self.show("ringfeed", "NRestarts"))
        self.machine.run("systemctl", "kill", "--signal=STOP", "--kill-who=main", "ringfeed")
        took = wait_for(
            "systemd replaces a hanging daemon", lambda: int(self.show("ringfeed", "NRestarts")) == before + 1, 40
        )
        seconds = self.progress("the trainers read after a hang")
        self.expect("the journal names the watchdog", "watchdog" in self.journal("ringfeed", "--since=-60s").lower())
        self.say(f"SIGSTOP: the watchdog ends it after {took:.1f} s, all ranks read on {seconds:.1f} s later")

    def reload(self) -> None:
        """New pairs come in with a reload, without a restart."""
        main = self.show("ringfeed", "MainPID")
        bucket = self.machine.root / "srv/bucket/my-bucket"
        write_pairs(bucket, range(PAIRS, PAIRS + ADDED))
        self.machine.run("systemctl", "reload", "ringfeed")
        wait_for("the journal tells of the new pairs", lambda: f"{PAIRS + ADDED} pairs" in self.journal("ringfeed"), 30)
        self.progress("the trainers read after a reload")
        self.expect("a reload keeps the process", self.show("ringfeed", "MainPID") == main)
        self.say("systemctl reload: the same process finds the new pairs")
        config = self.machine.root / "etc/ringfeed/ringfeed.toml"
        sound = config.read_text()
        for what, text, line in (
            ("a changed setting is taken over", sound + "linger_s = 77.0\n", "linger_s"),
            ("a broken config changes nothing", sound + "linger = 5\n", "linger"),
        ):
            since = self.machine.run("date", "+%Y-%m-%d %H:%M:%S.%N").strip()[:-3]
            config.write_text(text)
            self.machine.run("systemctl", "reload", "ringfeed")
            wait_for(
                f"the journal tells of {what}",
                lambda since=since, line=line: f"{line}" in self.journal("ringfeed", f"--since={since}"),
                30,
            )
            self.progress(f"the trainers read on: {what}")
            self.expect("a reload keeps the process", self.show("ringfeed", "MainPID") == main)
            told = [one for one in self.journal("ringfeed", f"--since={since}").splitlines() if line in one]
            self.say(f"systemctl reload, {what}: {told[0][:110]}")
        config.write_text(sound)

    def journal(self, unit: str, *options: str) -> str:
        """Return what the service logged."""
        return self.machine.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}", *options)

    def check_stranger(self) -> None:
        """A user outside the group gets nothing."""
        refused = self.machine.start(
            "mallory", PYTHON, "-c", "import ringfeed; ringfeed.attach('train', batch_size=1, wait_s=1)"
        )
        output, _ = refused.communicate(timeout=30)
        self.expect(f"another user may not attach: {output[-500:]}", refused.returncode != 0)
        self.say("a user outside the group may not attach: " + output.strip().splitlines()[-1][:90])

    def check_after_boot(self) -> None:
        """The enabled services are there after a boot, and serve."""
        for unit in ("ringfeed", "ringfeed@second"):
            wait_for(f"{unit} runs after the boot", lambda unit=unit: self.show(unit, "ActiveState") == "active", 60)
        self.start_trainers()
        self.stop_trainers()

    def remove(self) -> None:
        """Uninstall it, first one of two and then all."""
        ringfeed = f"{VENV}/bin/ringfeed"
        self.machine.run(ringfeed, "install-service", "--uninstall", "--config", "second")
        self.expect(
            "only the named config's service is gone", self.show("ringfeed@second", "ActiveState") == "inactive"
        )
        self.expect("the other service runs", self.show("ringfeed", "ActiveState") == "active")
        for token in (self.machine.root / "etc/ringfeed").glob("*http-token"):
            token.unlink()
        self.machine.run(ringfeed, "install-service", "--uninstall", "--purge")
        left = self.machine.run("find", "/dev/shm", "/etc", "-name", "*ringfeed*", "-not", "-name", "*.d")  # noqa: S108
        self.expect(f"nothing is left: {left}", not left)
        self.expect("the user is gone", self.machine.code("id", "ringfeed") != 0)
        self.say("uninstall --purge: no file, no user, no shared memory is left")


def tell(machine: Machine, wheel: Path) -> None:
    """Run the whole story."""
    trial = Trial(machine)
    trial.prepare(wheel)
    print(f"first boot: {machine.boot():.1f} s", flush=True)
    try:
        trial.install()
        trial.check_exposure()
        trial.check_token()
        trial.check_stranger()
        trial.start_trainers()
        trial.restart()
        trial.kill()
        trial.reload()
        trial.hang()
        trial.stop_trainers()
        machine.power_off()
        print(f"second boot, with the services enabled: {machine.boot():.1f} s", flush=True)
        trial.check_after_boot()
        trial.remove()
    except (TrialError, subprocess.TimeoutExpired):
        print(f"the journal's end:\n{trial.journal('ringfeed*')[-5000:]}", flush=True)
        raise
    machine.power_off()


def main() -> int:
    """Return 0 when everything held, 1 when something did not, 3 when this machine cannot try it."""
    parser = argparse.ArgumentParser(
        prog="try-systemd", allow_abbrev=False, description="Boot a machine with the service, and disturb it."
    )
    parser.add_argument("--suite", default="trixie", help="the Debian to boot, trixie or bookworm (default: trixie)")
    parser.add_argument("--wheel", type=Path, help="the package to install (default: built from this checkout)")
    options = parser.parse_args()
    if lacks := missing():
        print(f"try-systemd: this needs {', '.join(lacks)}", file=sys.stderr)
        return EXIT_CANNOT
    CACHE.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one at a time
        try:
            root = base(options.suite)
        except TrialError as error:
            print(f"try-systemd: no Debian could be made: {error}", file=sys.stderr)
            return EXIT_CANNOT
        machine = Machine(root)
        try:
            with tempfile.TemporaryDirectory() as folder:
                tell(machine, options.wheel or build(Path(folder)))
        except (TrialError, subprocess.TimeoutExpired) as error:
            print(f"try-systemd: {error}", file=sys.stderr)
            return EXIT_FAILED
        finally:
            machine.remove()
    print(f"all held; {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
