"""`ringfeed config`: check a configuration, show every value and its origin, print an example and the reference."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from ringfeed.cli.arguments import CommandParser
from ringfeed.text import count, one_line
from ringfeedd.cli.serve import add_settings, load_settings
from ringfeedd.config import load, resolve
from ringfeedd.config.load import config_path
from ringfeedd.config.shown import as_json, example, reference, show
from ringfeedd.errors import EXIT_BAD_CONFIG, EXIT_CLEAN, EXIT_USAGE, ConfigError


def add_config(commands: argparse._SubParsersAction[CommandParser]) -> None:
    """Add `config` to a parser's commands."""
    parser = commands.add_parser(
        "config",
        help="check a configuration, or show every setting",
        description="Checks a configuration file, shows every setting and where its value comes from, or prints a "
        "commented example file.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    check = verbs.add_parser(
        "check",
        help="check a file, and show all errors",
        description="Checks a TOML file, together with the environment variables RINGFEED_*, as `ringfeed serve "
        "--config FILE` would. Prints every error with its line.",
        epilog="Exit codes: 0 the configuration is valid; 78 it is not.",
    )
    check.add_argument("file", nargs="?", type=Path, metavar="FILE", help="TOML file (default: RINGFEED_CONFIG)")
    check.set_defaults(run=_check)
    shown = verbs.add_parser(
        "show",
        help="show every setting, its value and its origin",
        description="Shows every setting, its value, and where it comes from: default, file and line, environment "
        "variable, or flag. Takes the flags of `ringfeed serve`.",
        epilog="Exit codes: 0 the configuration is valid; 78 it is not.",
        argument_default=argparse.SUPPRESS,
    )
    shown.usage = "ringfeed config show [--json | --example] [ROOT] [--config FILE] [SETTINGS]"
    shown.add_argument("--json", action="store_true", help="print a JSON object, settings by name")
    shown.add_argument("--example", action="store_true", help="print a commented example file instead")
    add_settings(shown)
    shown.set_defaults(run=_show)
    printed = verbs.add_parser(
        "example", help="print a commented example file", description="Prints a commented TOML file with every setting."
    )
    printed.set_defaults(run=_print_example)
    page = verbs.add_parser(
        "reference", help="print docs/settings.md", description="Prints the page of all settings, docs/settings.md."
    )
    page.set_defaults(run=_print_reference)


def _check(arguments: argparse.Namespace) -> int:
    path = arguments.file or config_path(os.environ)
    if path is None:
        print("ringfeed config check: no file is given; pass its path", file=sys.stderr)
        return EXIT_USAGE
    try:
        loaded = load(path, {})
        resolve(loaded.config).access()
    except ConfigError as error:
        for sentence in error.sentences:
            print(one_line(sentence), file=sys.stderr)
        print(f"{path}: {count(len(error.sentences), 'error')}", file=sys.stderr)
        return EXIT_BAD_CONFIG
    for warning in loaded.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    print(f"{path}: valid, {count(len(loaded.origins), 'setting')} given")
    return EXIT_CLEAN


def _show(arguments: argparse.Namespace) -> int:
    given = vars(arguments)
    if given.get("example"):
        return _print_example(arguments)
    loaded = load_settings(arguments)
    for warning in loaded.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    if given.get("json"):
        print(json.dumps(as_json(loaded), indent=2))
    else:
        print("\n".join(one_line(line) for line in show(loaded)))
    return EXIT_CLEAN


def _print_example(_: argparse.Namespace) -> int:
    print(example(), end="")
    return EXIT_CLEAN


def _print_reference(_: argparse.Namespace) -> int:
    print(reference(), end="")
    return EXIT_CLEAN
