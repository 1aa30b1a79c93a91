"""Command lines that cannot be carried out: the last line names the flag and the value, and says what it must be."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from ringfeedd.cli.main import main

REPOSITORY = Path(__file__).parents[2]


def last_line(capsys, *arguments: str) -> tuple[int, str]:
    """Run a command line that must end at once: its exit code, and the last line on standard error, of two."""
    capsys.readouterr()
    try:
        code = main(list(arguments))
    except SystemExit as end:
        code = end.code
    out, said = capsys.readouterr()
    assert out == ""
    lines = said.splitlines()
    assert len(lines) <= 2, said
    assert all(len(line) < 200 for line in lines)
    return code, lines[-1]


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("serve x --slots -1", 78, "--slots -1: must be at least 2"),
        ("serve x --slots 99999999999999999999", 78, "--slots 99999999999999999999: must be at most 16777216"),
        ("serve x --workers 0", 78, "--workers 0: must be at least 1"),
        ("serve x --workers 1.5", 2, "--workers 1.5: must be a whole number or auto"),
        ("serve x --lanes x", 2, "--lanes x: must be a whole number"),
        ("serve x --test-ratio 1", 78, "--test-ratio 1: must be less than 1"),
        ("serve x --test-ratio nan", 78, "--test-ratio nan: must be a number"),
        ("serve x --deadline-s 0", 78, "--deadline-s 0: must be more than 0"),
        ("serve x --linger-s inf", 78, "--linger-s inf: must be at most 86400"),
        (
            "serve x --seed 99999999999999999999",
            78,
            "--seed 99999999999999999999: must be at most 18446744073709551615",
        ),
        ("serve x --fit stretch", 2, "--fit stretch: must be one of resize, crop, pad, native"),
        ("serve x --slots", 2, "--slots: expected one argument"),
        ("serve x --slot 3", 2, "unrecognized argument --slot; did you mean --slots?"),
        ("serve x --slot=3", 2, "unrecognized argument --slot=3; did you mean --slots?"),
        ("serve x y", 2, "unrecognized argument y"),
        ("serve x --data-plane curl", 2, "unrecognized argument --data-plane; it is now called --transport"),
        ("status --jso", 2, "unrecognized argument --jso; did you mean --json?"),
        ("clean --forc", 2, "unrecognized argument --forc; did you mean --force?"),
        ("top --count 0", 2, "--count 0: must be at least 1"),
        ("top --interval 0", 2, "--interval 0: must be at least 0.05"),
        ("top --interval nan", 2, "--interval nan: must be a number"),
        ("refresh --timeout-s -1", 2, "--timeout-s -1: must be at least 0"),
        ("demo --ranks 0", 2, "--ranks 0: must be at least 1"),
        ("bench floor --seconds -5", 2, "--seconds -5: must be at least 0.1"),
        ("nonsense", 2, "nonsense is not a command; there are serve, refresh, status, "),
        ("", 2, "no command is given"),
    ],
)
def test_the_last_line_names_flag_value_and_bound(capsys, command, code, said):
    ended, line = last_line(capsys, *command.split())
    assert ended == code
    assert re.match(r"ringfeed( \w+)?: " + re.escape(said), line), line


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("slots = 1", "slots = 1: must be at least 2"),
        ('slots = "x"', 'slots = "x": must be a whole number'),
        ('workers = "all"', 'workers = "all": must be a whole number or auto'),
        ('fit = "stretch"', 'fit = "stretch": must be one of resize, crop, pad, native'),
        ("exif_orientation = 3", "exif_orientation = 3: must be true or false"),
        ("max_failed = nan", "max_failed = nan: must be a number"),
        ("slotz = 3", "unrecognized setting slotz; did you mean slots?"),
    ],
)
def test_a_configuration_names_file_setting_value_and_bound(capsys, tmp_path, setting, said):
    file = tmp_path / "ringfeed.toml"
    file.write_text(f'root = "x"\n{setting}\n')
    assert last_line(capsys, "serve", "--config", str(file)) == (78, f"ringfeed: {file}:2: {said}")


def test_no_parser_takes_abbreviated_flags():
    paths = [
        *REPOSITORY.glob("*/ringfeed*/**/*.py"),
        *REPOSITORY.glob("tests/soak*.py"),
        *REPOSITORY.glob("scripts/**/*"),
    ]
    sources = [path for path in paths if path.suffix == ".py" or path.name == "install-systemd"]
    parsers = 0
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "ArgumentParser":
                parsers += 1
                assert any(keyword.arg == "allow_abbrev" for keyword in node.keywords), path
    assert parsers
