"""Clocks that jump, few files, no home, no IPv6, a dead proxy, a /dev/shm that is not ours: nothing rests on them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest
from house import HERE, RINGFEED, Daemon, write_folder

from ringfeedd.system.proxies import spare_local_hosts

STEPPING = r"""
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* The wall clock is right, then an hour ahead, then an hour behind, and so on, a tenth of a second each. */
int clock_gettime(clockid_t clock, struct timespec *now) {
    struct timespec since;
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) {
        syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &since);
        now->tv_sec += 3600 * ((since.tv_sec * 10 + since.tv_nsec / 100000000) % 3 - 1);
    }
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (to) *to = exact.tv_sec;
    return exact.tv_sec;
}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("set"), 24)


@pytest.fixture(scope="module")
def stepping_clock(tmp_path_factory):
    """The environment of a process whose wall clock steps by an hour in both directions all the time."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("this machine has no C compiler to make such a clock with")
    source = tmp_path_factory.mktemp("clock") / "clock.c"
    source.write_text(STEPPING)
    library = source.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}


def run(script, *arguments, prefix=(), timeout=100, **environ):
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path, **environ},
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


WAITS = """
import os, time
from ringfeed.shm.semaphore import Doorbell, unlink_doorbell
shown = [time.time() for _ in range(1000) if not time.sleep(0.0005)]
assert max(shown) - min(shown) > 7000, "it does not step"
name = f"/test-clock-{os.getpid()}"
bell = Doorbell.create(name, mode=0o600, gid=-1)
unlink_doorbell(name)
for _ in range(10):
    began = time.monotonic()
    assert not bell.wait()
    assert 0.15 < time.monotonic() - began < 2.0
    bell.ring()
    assert bell.wait()
print("well")
"""


def test_waits_ignore_steps_of_the_wall_clock(stepping_clock):
    assert run(WAITS, **stepping_clock).endswith("well\n")


READS = """
import sys, ringfeed
from house import Daemon
with Daemon(sys.argv[1], "--size", "24x32", "--slots", "32", "--workers", "1", ring=sys.argv[2]) as daemon:
    with ringfeed.attach(sys.argv[2] + "-train", batch_size=4) as reader:
        seen = [(batch.epoch, int(position)) for _ in range(20) for batch in reader for position in batch.positions]
assert seen == [(epoch, position) for epoch in range(20) for position in range(24)]
assert "died" not in "".join(daemon.output.lines), daemon.output.lines
print("well")
"""


@pytest.mark.slow
def test_daemon_and_trainer_survive_wall_clock_steps(stepping_clock, folder):
    """An hour in both directions."""
    assert run(READS, folder, f"clock{os.getpid()}", **stepping_clock).endswith("well\n")


BARE = """
import os, sys, ringfeed, socket
from house import Daemon, photographs
from ringfeedd.fakegcs import FakeGcs, serve_in_thread
try:
    with socket.socket(socket.AF_INET6) as there:
        there.bind(("::1", 0))
    raise SystemExit("there is IPv6")
except OSError:
    pass
assert "HOME" not in os.environ
with serve_in_thread(FakeGcs({"b": photographs(24)})) as store:
    arguments = ("--emulator", store.url, "--size", "24x32", "--slots", "32", "--workers", "2", "--concurrency", "256")
    daemon = Daemon("gs://b/set", *arguments, ring="bare")
    daemon.command = ["sh", "-c", 'ulimit -n 64; exec "$0" "$@"', *daemon.command]
    with daemon:
        with ringfeed.attach("bare-train", batch_size=4) as reader:
            for epoch in range(3):
                assert sum(int(batch.valid.sum()) for batch in reader) == 24
assert any("downloads at a time in each worker: a process may have few" in line for line in daemon.output.lines)
print("well")
"""

UNSHARED = ["unshare", "--net", "--mount", "sh", "-c"]
BARE_MACHINE = (
    "mount -t tmpfs -o size=64m,mode=1777 tmpfs /dev/shm && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; "
    'ip link set lo up && cd / && unset HOME XDG_CACHE_HOME XDG_CONFIG_HOME && exec "$0" "$@"'
)


def test_64_files_and_a_bare_environment_suffice():
    """No home, no IPv6, and a proxy that is dead."""
    if subprocess.run([*UNSHARED, BARE_MACHINE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make namespaces, or there is no `ip`")
    dead = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), dead)
    assert run(BARE, prefix=[*UNSHARED, BARE_MACHINE], **proxies).endswith("well\n")


CLOSED = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o "$0" tmpfs /dev/shm && shift 0 && exec "$@"']
WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]


@pytest.mark.parametrize("mode", ["0755", pytest.param("0000", marks=pytest.mark.slow)])
def test_unusable_shared_memory_is_one_sentence_a_command(folder, mode):
    """It may not be written, or not be listed."""
    prefix = [*CLOSED, f"mode={mode},uid=65534", *WITHOUT_PRIVILEGES]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")

    def said(*command):
        done = subprocess.run([*prefix, *command], capture_output=True, text=True, timeout=30, check=False)
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    code, sentence = said(*RINGFEED, "serve", folder)
    assert code == 3
    assert sentence.startswith(
        "ringfeed: could not create /dev/shm/ringfeed.train.lock: Permission denied; is /dev/shm"
    )
    if mode == "0000":
        code, sentence = said(*RINGFEED, "status")
        assert code == 3
        facts = "(mode 0000, owner 65534, group 0)"
        why = "cannot be listed: Permission denied; mount it as a tmpfs with mode 1777"
        assert sentence == f"ringfeed: /dev/shm {facts} {why}\n"
        code, sentence = said(*RINGFEED, "clean")
        assert (code, sentence.count("\n")) == (3, 1)


@pytest.mark.slow
def test_a_low_limit_for_the_workers_is_reported(folder):
    command = ["sh", "-c", 'ulimit -n 64; exec "$0" "$@"', *RINGFEED, "serve", folder, "--workers", "16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert re.fullmatch(r"ringfeed: a process may have 64 files open here, and .* 16 workers; raise .*\n", done.stderr)


FEW_RIGHTS = "+dac_override,+dac_read_search"
"""Enough for another user to run root's interpreter; and no right to pass the limits of processes."""

AS_A_USER = ["setpriv", "--reuid", "54321", "--clear-groups", "--inh-caps", FEW_RIGHTS, "--ambient-caps", FEW_RIGHTS]


@pytest.mark.parametrize(("processes", "sentence"), [(2, "may have no more processes"), (8, "ready: attach to")])
def test_few_processes_are_enough_or_a_sentence(folder, ring, processes, sentence, tmp_path):
    """With 8, workers read in their own thread; with 2, there is no worker."""
    if subprocess.run([*AS_A_USER, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not become another one")
    daemon = Daemon(folder, "--size", "24x32", "--slots", "16", "--workers", "2", ring=ring)
    daemon.command = [*AS_A_USER, "bash", "-c", f'ulimit -u {processes}; exec "$0" "$@"', *daemon.command]
    daemon.start()
    try:
        if processes == 8:
            daemon.output.wait_for(sentence)
            assert daemon.stop() == 0
        else:
            assert daemon.process.wait(20) == 3
            said = daemon.output.rest()
            assert "Traceback" not in said
            assert sentence in said.splitlines()[-1]
    finally:
        daemon.kill()


def test_too_little_address_space_is_a_sentence(folder, ring):
    """For the daemon at its very start, and for a reader that cannot map the ring."""
    command = ["sh", "-c", 'ulimit -v 100000; exec "$0" "$@"', *RINGFEED, "serve", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr == "ringfeed: this process may map 97 MiB, it needs 128 besides the rings: `ulimit -v`\n"
    reads = (
        "import resource, sys, ringfeed\n"
        "used = 1024 * int(next(l for l in open('/proc/self/status') if l.startswith('VmSize')).split()[1])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20),) * 2)\n"
        "try: ringfeed.attach(sys.argv[1], batch_size=4)\n"
        "except ringfeed.RingfeedError as error: print(type(error).__name__, error)\n"
    )
    with Daemon(folder, "--size", "200x200", "--slots", "100", "--workers", "1", ring=ring):
        said = run(reads, f"{ring}-train")
    assert re.match(r"NoAddressSpaceError could not map \d+ bytes \(.* MiB\) of shared memory: Cannot allocate", said)


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, []),
        ({"no_proxy": "intra.net, 10.0.0.1"}, ["intra.net", "10.0.0.1"]),
        ({"NO_PROXY": "intra.net"}, ["intra.net"]),
        ({"GCE_METADATA_HOST": "10.1.1.1:8080"}, []),
    ],
)
def test_local_and_metadata_servers_bypass_the_proxy(monkeypatch, given, left):
    for name in ("no_proxy", "NO_PROXY", "GCE_METADATA_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ, "http_proxy": "http://127.0.0.1:9", **given})
    spare_local_hosts(os.environ)
    hosts = ["127.0.0.1", "localhost", "169.254.169.254", "metadata.google.internal", *left]
    hosts += [host.partition(":")[0] for name, host in given.items() if name.startswith("GCE")]
    assert all(urllib.request.proxy_bypass(host) for host in hosts)
    assert not urllib.request.proxy_bypass("storage.googleapis.com")
    spare_local_hosts(os.environ)
    assert os.environ["no_proxy"].split(",").count("127.0.0.1") == 1


def test_a_proxy_that_is_for_nothing_stays_so():
    environ = {"no_proxy": "*"}
    spare_local_hosts(environ)
    assert environ == {"no_proxy": "*"}
