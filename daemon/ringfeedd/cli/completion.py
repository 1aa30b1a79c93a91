"""`ringfeed completion`: a script with which a shell completes commands, flags, choices and the names of rings."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Final

from ringfeed.cli.arguments import CommandParser
from ringfeedd.errors import EXIT_CLEAN, EXIT_COULD_NOT_START

SHELLS: Final = ("bash", "zsh", "fish")

RINGS: Final = {
    "bash": "_ringfeed_rings",
    "zsh": "_ringfeed_rings",
    "fish": "(command ls /dev/shm 2>/dev/null | string match -rg '^ringfeed\\.([A-Za-z0-9_-]+)$')",
}
"""What completes a ring's name in each shell: the descriptors that lie in /dev/shm."""

_LIST: Final = "command ls /dev/shm 2>/dev/null | sed -n 's/^ringfeed\\.\\([A-Za-z0-9_-]*\\)$/\\1/p'"
PREAMBLE: Final = {
    "bash": f'_ringfeed_rings() {{ compgen -W "$({_LIST})" -- "$1"; }}',
    "zsh": f"_ringfeed_rings() {{ compadd -- $({_LIST}); }}",
    "fish": "",
}

_HINTS: Final = {
    "bash": "ringfeed completion bash > ~/.local/share/bash-completion/completions/ringfeed",
    "zsh": "ringfeed completion zsh > a folder of $fpath, as _ringfeed",
    "fish": "ringfeed completion fish > ~/.config/fish/completions/ringfeed.fish",
}


def add_completion(commands: argparse._SubParsersAction[CommandParser], whole: CommandParser) -> None:
    """Add `completion` to a parser's commands.

    Args:
        whole: the parser of all commands, which the script completes.
    """
    parser = commands.add_parser(
        "completion",
        help="print a completion script for a shell",
        description="Prints a script with which bash, zsh or fish completes commands, flags, choices, files and the "
        f"names of rings. {'; '.join(_HINTS.values())}.",
    )
    parser.add_argument("shell", choices=SHELLS, help="shell that the script is for")
    parser.set_defaults(run=lambda arguments: _print_script(whole, arguments.shell))


def _print_script(whole: CommandParser, shell: str) -> int:
    try:
        import shtab  # noqa: PLC0415  # for this alone
    except ImportError:
        print("ringfeed: completion needs the package shtab: pip install shtab", file=sys.stderr)
        return EXIT_COULD_NOT_START
    _mark(whole, shtab)
    print(shtab.complete(whole, shell=shell, preamble=PREAMBLE[shell]))
    return EXIT_CLEAN


def _mark(parser: argparse.ArgumentParser, shtab: Any) -> None:  # noqa: ANN401  # a module without types
    """Say of each argument of a parser and of its commands whether it is a file, a folder or a ring."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _mark(command, shtab)
        elif action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in ("DIR", "ROOT"):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.metavar == "RING":
            action.complete = RINGS  # type: ignore[attr-defined]
