"""``python -m ringfeedd.fakegcs DIR --port N``: serve DIR/BUCKET/... until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from ringfeed.cli.arguments import CommandParser, any_whole, number, whole

from .faults import Fault, parse_fault
from .server import FakeGcs


def main(arguments: list[str] | None = None) -> int:
    """Parse, serve, and come back with an exit code."""
    parser = CommandParser(prog="python -m ringfeedd.fakegcs", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path, help="each folder in it is a bucket")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=whole(0, 65535), default=0, help="0 (the default): a free one, which is printed")
    parser.add_argument("--seed", type=any_whole, default=0, help="of the faults")
    parser.add_argument("--latency-ms", type=number(0, 3_600_000), default=0.0, help="added to each read")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="[OPERATION/]KIND[+SECONDS][:P[:GLOB]]",
        help="e.g. 503:0.1, 429+2:0.05, flip:0.01, stall:1:images/7.jpg, any/503; may be repeated. While it runs: "
        "curl -d '503:0.1 flip:0.01' URL/_faults puts others in their place, curl -X DELETE URL/_faults ends all",
    )
    parser.add_argument(
        "--reads-per-s", type=float, metavar="N", help="reads of objects beyond this rate are answered with 429"
    )
    parser.add_argument(
        "--faults-in-a-row", type=whole(0), metavar="N", help="an object fails at most so many times before it is read"
    )
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"there is no folder {options.folder}")
    try:
        faults = [parse_fault(text) for text in options.fault]
    except ValueError as error:
        parser.error(str(error))
    if options.latency_ms:
        faults.append(Fault("latency", delay_s=options.latency_ms / 1000))
    server = FakeGcs(
        options.folder,
        faults,
        seed=options.seed,
        host=options.host,
        port=options.port,
        reads_per_s=options.reads_per_s,
        faults_in_a_row=options.faults_in_a_row,
    )
    try:
        asyncio.run(_serve(server))
    except OSError as error:
        sys.stderr.write(f"{options.host}:{options.port} cannot be listened on: {error}\n")
        return 3
    return 0


async def _serve(server: FakeGcs) -> None:
    stop = asyncio.Event()
    for end in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(end, stop.set)
    async with server:
        sys.stdout.write(f"fake GCS on {server.url}\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    sys.exit(main())
