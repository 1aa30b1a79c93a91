"""A reload of a real daemon: what it takes at once, what it names for a restart, and that an error changes nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.error
import urllib.request

import pytest
from house import RINGFEED, Daemon, wait_until, write_folder

import ringfeed

RING = f"rl{os.getpid()}"
NAME = f"{RING}-train"
PAIRS = 40


def status():
    done = subprocess.run([*RINGFEED, "status", NAME, "--json"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)[NAME]


def asks(url, token):
    """The status code of a request to the page with this token."""
    request = urllib.request.Request(f"{url}status.json", headers={"Authorization": f"Bearer {token}"})
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def given(tmp_path):
    """A daemon with a file, which the test writes again: (daemon, write, token's file)."""
    folder = write_folder(tmp_path / "set", PAIRS)
    path, token = tmp_path / "ringfeed.toml", tmp_path / "token"
    token.write_text("first-token-of-the-page")
    token.chmod(0o600)

    def write(text):
        path.write_text(f'root = "{folder}"\nhttp = "127.0.0.1:0"\nhttp_token_file = "{token}"\n{text}')

    write("workers = 1\n")
    daemon = Daemon(str(folder), "--config", path, "--size", "24x32", "--slots", "16", ring=RING)
    with daemon:
        daemon.write, daemon.token = write, token
        yield daemon


def hang_up(daemon):
    daemon.process.send_signal(signal.SIGHUP)


def line_with(daemon, word):
    """The next line of the daemon's output that has the word."""
    while word not in (line := daemon.output.wait_for("")):
        pass
    return line


def test_a_broken_file_changes_nothing(given):
    wait_until(lambda: status()["workers"] == 1)
    page = next(line for line in given.output.lines if line.startswith("status page")).split()[-1]
    given.write('workers = 3\nlinger_s = -1\nslots = "many"\nlog_level = "debug"\nunknown = 1\n')
    hang_up(given)
    said = line_with(given, "reload:")
    assert said.startswith("ERROR ringfeedd: reload: the configuration has errors, and all settings stay as they are: ")
    for line, fault in ((5, "linger_s = -1: must be at least 0"), (6, "slots = "), (8, "unrecognized setting unknown")):
        assert f"ringfeed.toml:{line}: {fault}" in said
    line_with(given, "listing")  # the root is listed again all the same
    assert status()["workers"] == 1
    assert asks(page, "first-token-of-the-page") == 200
    given.token.write_text("another-token-of-the-page")
    given.write("workers = 1\n")
    hang_up(given)
    assert "reload: no setting has changed" in line_with(given, "reload:")
    assert asks(page, "another-token-of-the-page") == 200, "its file is read again"


def test_workers_come_and_go_under_a_reader(given):
    ids = []
    with ringfeed.attach(NAME, batch_size=4, group="g", rank=0, world_size=1) as reader:
        for workers in (3, 1, 2):
            given.write(f'workers = {workers}\nconcurrency = 8\nmax_attempts = 3\nlinger_s = "1 min"\nseed = 7\n')
            hang_up(given)
            said = line_with(given, "reload:")
            assert f"workers = {workers}" in said
            assert said.rstrip().endswith("after a restart only: seed = 7")
            ids += [pair_id for batch in reader for pair_id in batch.ids]
            wait_until(lambda workers=workers: len(given.workers()) == workers == status()["workers"])
        ids += [pair_id for batch in reader for pair_id in batch.ids]
    assert len(ids) == 4 * PAIRS
    assert all(len(set(ids[begin : begin + PAIRS])) == PAIRS for begin in range(0, 4 * PAIRS, PAIRS))
    now = status()
    assert (now["worker_deaths"], now["failed_pairs"], now["seed"]) == (0, 0, 0)


def test_the_log_changes_its_level_and_its_form(given):
    given.write('workers = 1\nlog_format = "json"\nlog_level = "warning"\n')
    hang_up(given)
    wait_until(lambda: status()["refresh"] != "")
    given.write('workers = 1\nlog_format = "json"\nlog_level = "info"\n')
    hang_up(given)
    said = json.loads(line_with(given, "reload:"))
    assert (said["level"], said["logger"]) == ("info", "ringfeedd")
    assert re.fullmatch(r'reload: changed log_level = "info"', said["message"])
