"""What `ringfeed bench` does: one command measured, or all of them; tables on stdout, JSON and a page on request."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from ringfeedd.bench.arguments import MEASURED
from ringfeedd.bench.caches import cache
from ringfeedd.bench.contenders import Peers
from ringfeedd.bench.errors import BenchError
from ringfeedd.bench.gpu import gpu
from ringfeedd.bench.handoff import handoff
from ringfeedd.bench.machine import Machine, this_machine
from ringfeedd.bench.million import catalog
from ringfeedd.bench.results import Result
from ringfeedd.bench.secure import tls
from ringfeedd.bench.session import Session
from ringfeedd.bench.starting import start
from ringfeedd.bench.supervisor_alone import supervisor
from ringfeedd.bench.tables import markdown, rewritten
from ringfeedd.bench.throughput import fanout, large, latency, least, ranks, solo, workers
from ringfeedd.bench.trouble import faults
from ringfeedd.demo.errors import DemoError
from ringfeedd.demo.interrupts import Interrupts
from ringfeedd.errors import EXIT_CLEAN, EXIT_CRASH, DaemonError

EXIT_INTERRUPTED: Final = 130


COMMANDS: Final[dict[str, Callable[[Session], Result]]] = dict(
    zip(
        MEASURED,
        (
            solo,
            least,
            tls,
            latency,
            faults,
            fanout,
            ranks,
            handoff,
            start,
            catalog,
            workers,
            supervisor,
            large,
            cache,
            gpu,
        ),
        strict=True,
    )
)


class Document(msgspec.Struct):
    """The JSON file: results by command, each with the machine that it was measured on."""

    results: dict[str, Result] = {}
    machines: dict[str, Machine] = {}

    def blocks(self) -> dict[str, str]:
        """Every command's part of the page."""
        return {name: f"{markdown(result)}\n\n{self.machines[name]}" for name, result in self.results.items()}


def default_data() -> Path:
    """Where workloads are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ringfeed-bench"


def run_bench(arguments: argparse.Namespace) -> int:
    """Carry out `ringfeed bench`; returns the exit code."""
    log = Path(tempfile.mkdtemp(prefix="ringfeed-bench-"))
    peers = Peers(arguments.peers_python, arguments.peers) if arguments.peers and arguments.peers_python else None
    session = Session(
        data=(arguments.data or default_data()).expanduser().resolve(),
        log=log,
        rounds=max(1, arguments.rounds),
        seconds=arguments.seconds,
        pairs=arguments.pairs,
        peers=peers,
        python=peers.python if peers else sys.executable,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    kept = False
    # As where pip installed it: what is imported was compiled before, also where this environment keeps no byte code.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(session.data / "bytecode")
    try:
        with Interrupts():
            for name in COMMANDS if arguments.what == "all" else [arguments.what]:
                _run_one(session, name, arguments.out, arguments.page)
    except (BenchError, DemoError, DaemonError, TimeoutError) as error:
        kept = True
        print(f"bench: {error}\nlogs: {log}", file=sys.stderr)
        return EXIT_CRASH
    except KeyboardInterrupt:
        print("bench: interrupted; everything that it had started was stopped", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        if not kept:
            shutil.rmtree(log, ignore_errors=True)
    return EXIT_CLEAN


def _run_one(session: Session, name: str, out: Path | None, page: Path | None) -> None:
    began = time.monotonic()
    machine = this_machine()
    result = COMMANDS[name](session)
    print(f"\n## {name}\n\n{markdown(result)}\n\n{machine}\nmeasured in {time.monotonic() - began:.0f} s\n", flush=True)
    document = msgspec.json.decode(out.read_bytes(), type=Document) if out is not None and out.is_file() else Document()
    document.results[name] = result
    document.machines[name] = machine
    if out is not None:
        out.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
    if page is not None:
        page.write_text(rewritten(page.read_text(), document.blocks()))
