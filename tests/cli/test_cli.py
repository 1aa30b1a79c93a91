"""The command line as its users meet it: what it prints, its exit codes, one sentence for each bad input."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from house import (
    RINGFEED,
    Daemon,
    finish,
    photographs,
    traces,
    trainer,
    wait_until,
    wipe,
    with_its_own_shm,
    write_folder,
)
from ring_fixtures import served_ring, turning

import ringfeed
from ringfeed.cli.status import ring_status
from ringfeed.shm.counters import DaemonCounts
from ringfeed.shm.layout import State
from ringfeedd.cli.main import main
from ringfeedd.fakegcs import FakeGcs, Fault, serve_in_thread
from ringfeedd.fetch.health import StoreHealth
from ringfeedd.ring.failures import Failure
from ringfeedd.web.snapshot import look


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), 24)


def run(*arguments, **environ):
    return subprocess.run(
        [*RINGFEED, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environ},
    )


def ask(capsys, *arguments):
    """Run a quick command in this process: its exit code, and what it says on standard output and error."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def refusal(code, *arguments, **environ):
    """What a command that must fail with this code says: one sentence, no traceback."""
    done = run(*arguments, **environ)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ringfeed")
    return last


def test_serve_reports_findings_and_stops_on_sigterm(folder, ring):
    with Daemon(str(folder), "--size", "32x40", "--test-ratio", "0.5", "--slots", "16", ring=ring) as daemon:
        said = "".join(daemon.output.lines)
        assert f"found 24 pairs under {folder}" in said
        assert re.search(rf"ring {ring}-train: \d+ pairs, 16 slots of 32x40", said)
        assert f"ready: attach to {ring}-train, {ring}-test" in said
        lengths = [ring_status(f"{ring}-{split}").epoch_length for split in ("train", "test")]
        assert sum(lengths) == 24
        assert all(lengths)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 5
    assert traces(ring) == []


def test_an_empty_test_split_is_skipped_and_reported(folder, ring):
    with Daemon(str(folder), "--slots", "16", "--test-ratio", "0.001", ring=ring) as daemon:
        said = "".join(daemon.output.lines)
        assert f"ring {ring}-test: not served, since test_ratio = 0.001 gives it none of the pairs" in said
        assert f"ready: attach to {ring}-train\n" in said
        assert ring_status(f"{ring}-train").epoch_length == 24


def test_ctrl_c_stops_it_and_leaves_nothing(folder, ring):
    with Daemon(str(folder), "--slots", "16", ring=ring) as daemon:
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.process.wait(60) == 0
    assert traces(ring) == []


def test_a_stop_while_it_still_lists_is_clean(ring):
    stalled = {"b": photographs(2)}
    with serve_in_thread(FakeGcs(stalled, [Fault("stall", 1.0, operation="list")])) as server:
        daemon = Daemon("gs://b/set", "--emulator", server.url, ring=ring).start()
        try:
            wait_until(lambda: server.count("list"))
            assert traces(ring)  # its lock, at least
            assert daemon.stop() == 0
            assert traces(ring) == []
        finally:
            daemon.kill()


def test_status_tells_people_and_programs_the_same(folder, ring):
    with Daemon(str(folder), "--slots", "16", ring=ring), ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
        batch = next(iter(reader))
        people = run("status", f"{ring}-train")
        programs = json.loads(run("status", "--json", f"{ring}-train").stdout)[f"{ring}-train"]
        assert people.returncode == 0
        assert f"{ring}-train: serving" in people.stdout
        assert f"pid {os.getpid()}): 1 batch of 4, holds 4 pairs" in people.stdout
        assert programs["state"] == "serving"
        assert programs["decoded_pairs"] >= 4
        (consumer,) = programs["consumers"]
        assert (consumer["pid"], consumer["batches"], consumer["held_pairs"]) == (os.getpid(), 1, 4)
        del batch


def test_status_of_nothing_is_a_sentence(ring):
    done = run("status", ring)
    assert done.returncode == 3
    assert f"No daemon serves the ring '{ring}'" in done.stderr


def test_status_tells_a_dead_daemon(folder, ring):
    daemon = Daemon(str(folder), "--slots", "16", ring=ring).start()
    daemon.output.wait_for("ready")
    try:
        daemon.process.kill()
        daemon.process.wait()
        done = run("status", f"{ring}-train")
        assert done.returncode == 3
        assert f"{ring}-train: dead" in done.stdout
    finally:
        daemon.kill()


def test_a_second_daemon_of_a_ring_is_refused(folder, ring):
    """The first one continues."""
    with Daemon(str(folder), "--slots", "16", ring=ring):
        assert "serves the ring" in refusal(75, "serve", folder, "--ring", ring)
        with ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
            assert len(next(iter(reader))) == 4


def test_clean_removes_dead_daemons_files_only(folder, ring, capsys):
    with Daemon(str(folder), "--slots", "16", ring=ring) as daemon:
        served = run("clean", f"{ring}-train")
        assert (served.returncode, served.stdout) == (0, f"{ring}-train: is served; left alone\n")
        with ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
            assert len(next(iter(reader))) == 4
            daemon.process.kill()
            daemon.process.wait()
            waiting = run("clean", f"{ring}-train")
            assert waiting.returncode == 3
            assert "1 trainer waits for its next daemon" in waiting.stdout
        assert re.fullmatch(
            rf"{ring}-train: removed \d+ files? of a dead daemon\n", run("clean", f"{ring}-train").stdout
        )
        assert traces(ring) == []
        assert run("clean", f"{ring}-train").returncode == 0
        assert traces(ring) == []
    assert ask(capsys, "clean", f"{ring}-train")[1] == f"{ring}-train: nothing is left of it\n"


@pytest.mark.parametrize("name", ["", "no/name", "../x", "a" * 300, "\udcff"])
@pytest.mark.parametrize("command", ["status", "errors", "top", "refresh", "clean"])
def test_an_unknown_rings_name_is_a_usage_error(command, name, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([command, name])
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"ringfeed {command}: RING {name!r} cannot be a ring's name: use 1 to 64 letters, digits, '-' and '_'"
    )


@pytest.mark.parametrize("root", ["s3://b/x", "GS://b", "gs://", "gs:///x", "gs://Upper", "http://x/y"])
def test_an_unreadable_root_is_bad_configuration(root, ring):
    assert root in refusal(78, "serve", root, "--ring", ring)


@pytest.mark.parametrize("flag", ["--slots", "--seed", "--image-pad", "--label-pad", "--max-pixels"])
def test_an_invalid_count_is_a_usage_error(flag):
    assert refusal(2, "serve", "b", flag, "1e3").endswith(f"{flag} 1e3: must be a whole number")


def test_bad_flags_and_configuration_get_a_sentence_each(folder, ring, tmp_path):
    assert "size '9' is not HEIGHTxWIDTH" in refusal(78, "serve", folder, "--size", "9")
    assert "no root" in refusal(78, "serve")
    assert "no such unix group" in refusal(78, "serve", folder, "--ring", ring, "--group", "nobody-has-this")
    config = tmp_path / "ringfeed.toml"
    config.write_text(f'root = "{folder}"\nslotz = 3\n')
    assert "slotz" in refusal(78, "serve", "--config", config)
    assert "could not read the configuration" in refusal(78, "serve", "--config", tmp_path / "none.toml")
    assert run("serve", folder, "--fit", "stretch").returncode == 2
    assert run("nonsense").returncode == 2


def test_file_and_flags_agree_and_flags_win(folder, ring, tmp_path):
    config = tmp_path / "ringfeed.toml"
    config.write_text(f'root = "{folder}"\nsize = "24x32"\nslots = 32\norder = "sequential"\nlabel_mode = "index"\n')
    daemon = Daemon(str(folder), "--config", config, "--slots", "16", ring=ring)
    with daemon, ringfeed.attach(f"{ring}-train", batch_size=4) as reader:
        assert reader.descriptor.identity.order == "sequential"
        assert reader.descriptor.geometry.image.row_shape == (24, 32, 3)
        assert reader.descriptor.geometry.slots == 16
        ids = [pair_id for batch in reader for pair_id in batch.ids]
        assert ids == sorted(ids, key=str.encode)


def test_an_unservable_root_gets_a_sentence(ring, tmp_path):
    assert "no folder" in refusal(3, "serve", tmp_path / "none", "--ring", ring).lower()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpeg").write_bytes(b"x")
    said = refusal(3, "serve", tmp_path, "--ring", ring)
    assert "pairs" in said
    assert "pictures" in said
    with serve_in_thread(FakeGcs({"b": {}})) as server:
        assert "nowhere" in refusal(3, "serve", "gs://nowhere/x", "--emulator", server.url, "--ring", ring)
    no_credentials = {
        "HOME": str(tmp_path),
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json"),
    }
    assert "credentials" in refusal(3, "serve", "gs://b/x", "--ring", ring, **no_credentials).lower()
    assert traces(ring) == []


def test_an_oversized_ring_names_wanted_and_free_memory(folder, ring):
    said = refusal(3, "serve", folder, "--ring", ring, "--size", "4096x4096", "--slots", "100000")
    assert re.search(r"needs \d+ bytes .* \d+ bytes .* are free", said)
    assert "--shm-size" in said
    assert traces(ring) == []


def test_only_bad_pairs_stop_the_start_with_reasons(ring):
    objects = {
        f"set/{side}/{n}.{kind}": b"junk" for n in range(40) for side, kind in (("images", "jpg"), ("labels", "png"))
    }
    with serve_in_thread(FakeGcs({"b": objects})) as server:
        said = refusal(3, "serve", "gs://b/set", "--emulator", server.url, "--ring", ring, "--size", "8x8")
    assert "each of the first" in said
    assert traces(ring) == [f"ringfeed.{ring}-{split}.errors" for split in ("test", "train")]
    wipe(ring)


def test_a_few_bad_pairs_are_replaced_in_place(ring):
    objects = photographs(40)
    images = sorted(name for name in objects if "/images/" in name)
    bad = {name.removeprefix("set/images/").removesuffix(".jpg") for name in images[5:7]}
    for name in images[5:7]:
        objects[name] = objects[name][: len(objects[name]) // 3]
    arguments = ("--size", "24x32", "--slots", "32", "--max-failed", "0.5")
    with (
        serve_in_thread(FakeGcs({"b": objects})) as server,
        Daemon("gs://b/set", "--emulator", server.url, *arguments, ring=ring),
        ringfeed.attach(f"{ring}-train", batch_size=4, drop_last=False) as reader,
    ):
        for _ in range(2):
            rows = [(pair_id, bool(ok)) for batch in reader for pair_id, ok in zip(batch.ids, batch.valid, strict=True)]
            assert len(rows) == 40
            good = [pair_id for pair_id, ok in rows if ok]
            assert len(good) == len(set(good)) == 38
            assert not bad & {pair_id for pair_id, _ in rows}
        wait_until(lambda: ring_status(f"{ring}-train").failed_pairs >= 4)


def with_cut_images(pairs, positions):
    """Objects of a bucket in which the images at these places of the sequential order are cut off; and their ids."""
    objects = photographs(pairs)
    images = sorted((name for name in objects if "/images/" in name), key=str.encode)
    for position in positions:
        objects[images[position]] = objects[images[position]][:500]
    return objects, [images[position].removeprefix("set/images/").removesuffix(".jpg") for position in positions]


SMALL = ("--size", "24x32", "--slots", "16", "--order", "sequential", "--workers", "1")


def test_errors_lists_failures_for_people_and_programs(ring, capsys):
    """With the reason of each."""
    objects, bad = with_cut_images(30, [2, 5])
    name = f"{ring}-train"
    with (
        serve_in_thread(FakeGcs({"b": objects})) as server,
        Daemon("gs://b/set", "--emulator", server.url, *SMALL, "--max-failed", "1", ring=ring) as daemon,
    ):
        wait_until(lambda: len(json.loads(ask(capsys, "errors", "--json", name)[1])[name]["pairs"]) == 2)
        listed = json.loads(ask(capsys, "errors", "--json", name)[1])[name]
        assert sorted(pair["pair_id"] for pair in listed["pairs"]) == sorted(bad)
        assert all(pair["reason"] and pair["cause"] == "corrupt" for pair in listed["pairs"])
        assert all(abs(pair["last_unix_s"] - time.time()) < 100 for pair in listed["pairs"])
        code, people, _ = ask(capsys, "errors", name)
        assert code == 0
        assert f"{name}: 2 draws failed (2 corrupt); 2 pairs are listed" in people
        for pair_id in bad:
            assert f"  {pair_id}  corrupt: " in people
        daemon.process.kill()
        daemon.process.wait()
        assert bad[0] in ask(capsys, "errors", name)[1]  # of a dead daemon, too
    assert ask(capsys, "errors", name)[0] == 3


def test_errors_says_so_without_failed_pairs(capsys):
    with served_ring() as served:
        assert ask(capsys, "errors", served.name)[:2] == (0, f"{served.name}: no pair has failed\n")
        listed = json.loads(ask(capsys, "errors", "--json", served.name)[1])[served.name]
        assert (listed["ring"], listed["failed_draws"], listed["pairs"]) == (served.name, 0, [])


def fail_pairs(served, count):
    for number in range(count):
        served.service.failures.fail(Failure(f"pair-{number:04d}", "no such object", "missing", 1))
    served.turn()


def test_errors_status_and_page_agree_at_every_moment(capsys):
    with served_ring() as served:
        for number in range(30):
            for _ in range(number % 4):
                cause = ("missing", "corrupt")[number % 2]
                served.service.failures.fail(Failure(f"pair-{number}", "no such object", cause, 1))
            served.seconds += 0.3  # the list is written once a second at most
            if number % 3:
                served.service.report(DaemonCounts(workers=1), StoreHealth())
            listed = json.loads(ask(capsys, "errors", "--json", served.name)[1])[served.name]
            status = json.loads(ask(capsys, "status", "--json", served.name)[1])[served.name]
            view = look(served.service)
            assert status["failed_pairs"] == listed["failed_draws"] == view.status.failed_pairs
            assert status["failures_by_cause"] == listed["causes"] == view.failed.causes
            assert sum(listed["causes"].values()) == listed["failed_draws"] == view.failed.failed_draws
        assert listed["failed_draws"] > 30
        assert f"{listed['failed_draws']} failed (" in ask(capsys, "status", served.name)[1]


def test_status_shows_skipped_places_and_fork_server_deaths(capsys):
    with served_ring() as served, turning(served, 2.0):
        story = "import sys, os, ringfeed; r = ringfeed.attach(sys.argv[1], batch_size=2, group='job'); os._exit(1)"
        trainer(story, served.name).communicate(timeout=30)
        wait_until(lambda: served.service.counters.places_given_up)
        served.service.report(DaemonCounts(workers=1, fork_server_deaths=2), StoreHealth())
        status = json.loads(ask(capsys, "status", "--json", served.name)[1])[served.name]
        assert (status["fork_server_deaths"], status["places_given_up"]) == (2, 1)
        said = ask(capsys, "status", served.name)[1]
        assert "1 place given up" in said
        assert "2 fork servers died" in said


def test_status_of_a_hanging_daemon_exits_with_3(capsys):
    with served_ring() as served:
        assert ask(capsys, "status", served.name)[0] == 0
        long_ago = time.monotonic_ns() - 60_000_000_000
        served.memory.set(State.STARTED_NS, long_ago)
        served.memory.set(State.HEARTBEAT_NS, long_ago)
        code, said, _ = ask(capsys, "status", served.name)
        assert code == 3
        assert "its loop has not turned for 60 s" in said


def test_a_reader_that_has_enough_is_no_error():
    ringfeed_in_a_pipe = f'{shlex.join(RINGFEED)} "$@" | head -n 1'
    with served_ring() as served:
        fail_pairs(served, 900)  # more than a pipe holds
        for command in (
            ["errors", served.name],
            ["errors", "--json"],
            ["status", served.name],  # the rings of other tests may hang, which it says with its exit code
            ["top", "--count", "50"],
            ["doctor"],
        ):
            served.service.report(DaemonCounts(workers=1), StoreHealth())  # else this one hangs after 5 s
            done = subprocess.run(
                ["bash", "-o", "pipefail", "-c", ringfeed_in_a_pipe, "bash", *command],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.stdout.count("\n") == 1
            assert (done.returncode, done.stderr) in ((0, ""), (int(command == ["doctor"]), "")), command


def test_output_that_cannot_be_written_is_a_sentence():
    with served_ring() as served, Path("/dev/full").open("w") as full:
        for command in (["status", served.name], ["errors", served.name], ["doctor"]):
            done = subprocess.run(
                [*RINGFEED, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
            )
            assert done.returncode == 3
            assert done.stderr == "ringfeed: the output could not be written: No space left on device\n"


UNLISTED = """
import os, sys
from pathlib import Path
import ringfeedd.cli.doctor  # while the packages can be read
from ringfeedd.cli.main import main
if sys.argv[1] == "closed":
    Path("/dev/shm").chmod(0o700)
    os.setresuid(65534, 65534, 65534)
else:
    assert os.system("umount /dev/shm && mount -t tmpfs -o size=64k tmpfs /dev && rm -rf /dev/shm") == 0
print([main(command.split()) for command in sys.argv[2:]])
"""


@pytest.mark.parametrize("how", ["closed", "gone"])
def test_without_a_shm_every_command_says_a_sentence(how):
    commands = [name + ring for name in ("status", "refresh", "errors", "clean") for ring in ("", " train")]
    said = with_its_own_shm("size=1m", UNLISTED, how, *commands, "doctor", "top --count 1")
    assert "Traceback" not in said
    assert said.splitlines()[-1] == "[3, 3, 3, 3, 3, 3, 3, 3, 1, 0]"
    assert said.count("/dev/shm") >= 8
    assert "bad   rings" in said


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        pytest.param(
            ("--max-failed", "0"), r"1 of the latest \d+ pairs failed, more than max_failed = 0", marks=pytest.mark.slow
        ),
        (("--max-failed", "1", "--on-error", "stop"), r'on_error = "stop", and the pair'),
    ],
)
def test_a_failed_ring_tells_every_trainer_why(ring, budget, sentence, capsys, monkeypatch):
    objects, (bad,) = with_cut_images(60, [40])
    name = f"{ring}-train"
    with serve_in_thread(FakeGcs({"b": objects})) as server:
        daemon = Daemon("gs://b/set", "--emulator", server.url, *SMALL, *budget, ring=ring).start()
        try:
            daemon.output.wait_for("ready")
            reader = ringfeed.attach(name, batch_size=4)
            with pytest.raises(ringfeed.DaemonGoneError, match=f"{sentence}.*{re.escape(bad)}"):
                for _ in reader:
                    pass
            reader.close()
            assert daemon.process.wait(60) == 1
            assert re.search(sentence, daemon.output.rest())
            assert traces(ring) == [f"ringfeed.{name}.errors"]
            with pytest.raises(ringfeed.DaemonNotRunningError, match=f"since its last one stopped it: {sentence}"):
                ringfeed.attach(name, batch_size=4)
            monkeypatch.setattr("ringfeed.cli.commands.ring_names", list)  # other tests' rings
            code, _, said = ask(capsys, "status")
            assert code == 3
            assert f"No daemon serves the ring {name!r}, since its last one stopped it" in said
            assert bad in ask(capsys, "errors", name)[1]
            assert f"{name}: removed 1 file" in ask(capsys, "clean", name)[1]
        finally:
            daemon.kill()


def test_attaching_to_a_failed_ring_raises_its_reason(ring):
    """At once. The other ring continues."""
    objects, (bad,) = with_cut_images(40, [1])
    arguments = (*SMALL, "--test-ratio", "0.5", "--on-error", "stop")
    with serve_in_thread(FakeGcs({"b": objects})) as server:
        daemon = Daemon("gs://b/set", "--emulator", server.url, *arguments, ring=ring).start()
        try:
            daemon.output.wait_for("ready")
            states = {split: ring_status(f"{ring}-{split}").state for split in ("train", "test")}
            assert sorted(states.values()) == ["failed", "serving"]
            (failed,) = (split for split, state in states.items() if state == "failed")
            (other,) = {"train", "test"} - {failed}
            began = time.monotonic()
            with pytest.raises(ringfeed.DaemonGoneError, match=re.escape(bad)):
                ringfeed.attach(f"{ring}-{failed}", batch_size=4)
            assert time.monotonic() - began < 5
            with ringfeed.attach(f"{ring}-{other}", batch_size=4) as reader:
                assert len(next(iter(reader))) == 4
        finally:
            daemon.kill()


def test_invalid_trainer_arguments_get_a_sentence(folder, ring):
    with Daemon(str(folder), "--slots", "16", ring=ring):
        name = f"{ring}-train"
        with pytest.raises(ValueError, match="rank 2 is out of range"):
            ringfeed.attach(name, batch_size=2, group="g", rank=2, world_size=2)
        with pytest.raises(ValueError, match="needs group=NAME"):
            ringfeed.attach(name, batch_size=2, rank=0, world_size=2)
        with pytest.raises(ringfeed.AttachRefusedError, match=r"needs a ring of at least 64 slots .* --slots 64"):
            ringfeed.attach(name, batch_size=32)
        with pytest.raises(ringfeed.DaemonNotRunningError, match=f"{name}"):
            ringfeed.attach("nonexistent", batch_size=2)
        with ringfeed.attach(name, batch_size=2, group="g", rank=0, world_size=2):
            with pytest.raises(
                ringfeed.AttachRefusedError, match=rf"rank 0 of group 'g' is attached already.*{os.getpid()}"
            ):
                ringfeed.attach(name, batch_size=2, group="g", rank=0, world_size=2)
            with pytest.raises(ringfeed.AttachRefusedError, match="use the same in every rank"):
                ringfeed.attach(name, batch_size=4, group="g", rank=1, world_size=2)


def test_importing_ringfeed_loads_no_heavy_package():
    """Neither torch nor aiohttp nor the daemon."""
    said = finish(
        trainer(
            "import sys, ringfeed; print([m for m in ('torch', 'aiohttp', 'PIL', 'ringfeedd') if m in sys.modules])"
        )
    )
    assert said.strip() == "[]"
