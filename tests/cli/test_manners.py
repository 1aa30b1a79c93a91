"""The command line's manners: parts of ring names, keys, colours, wrapped sentences, plurals, completion."""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import time

import pytest
from ring_fixtures import served_ring

from ringfeed.cli.colour import Style, paint, wants_colour
from ringfeed.cli.matching import AmbiguousRingError, matching_ring, matching_rings
from ringfeed.cli.screen import Key, Keyboard, Line, fit, most_offset
from ringfeed.text import count
from ringfeedd.cli.main import main

RINGS = ["opx-test", "opx-train", "other-train", "sweep"]


@pytest.mark.parametrize(
    ("word", "ring"),
    [
        ("opx-train", "opx-train"),
        ("opx", "opx-train"),
        ("oth", "other-train"),
        ("swe", "sweep"),
        ("wee", "sweep"),
        ("x-te", "opx-test"),
        ("none", "none"),
    ],
)
def test_a_part_of_a_name_is_enough(word, ring):
    assert matching_ring(word, RINGS) == ring


@pytest.mark.parametrize(("word", "said"), [("o", "opx-test, opx-train and other-train"), ("test", ""), ("op", "opx")])
def test_a_part_that_fits_several_is_a_sentence(word, said):
    if not said:
        assert matching_ring(word, RINGS) == "opx-test"
        return
    with pytest.raises(AmbiguousRingError, match=f"'{word}' fits the rings .*{said}.*; give more of the name"):
        matching_ring(word, RINGS)


def test_each_ring_is_shown_once():
    assert matching_rings(["opx", "opx-train", "swe", "o"], RINGS)[0] == ["opx-train", "sweep"]


def test_status_takes_a_part_of_a_name(capsys):
    with served_ring() as served:
        assert main(["status", served.name[:-3]]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"{served.name}: serving")
        assert "\x1b" not in said
        assert main(["errors", served.name[2:]]) == 0
        assert capsys.readouterr().out == f"{served.name}: no pair has failed\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colour_is_for_terminals_that_want_it():
    assert wants_colour(Terminal(), {})
    assert not wants_colour(io.StringIO(), {})
    assert not wants_colour(Terminal(), {"NO_COLOR": "1"})
    assert not wants_colour(Terminal(), {"TERM": "dumb"})
    assert wants_colour(Terminal(), {"NO_COLOR": ""})
    assert paint("x", Style.BAD, colour=True) == "\x1b[31mx\x1b[0m"
    assert paint("x", Style.BAD, colour=False) == "x"


def test_status_is_plain_with_no_color(tmp_path):
    with served_ring() as served:
        for environ, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
            leader, follower = pty.openpty()
            command = [sys.executable, "-m", "ringfeedd", "status", served.name]
            usual = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
            subprocess.run(command, stdout=follower, check=False, env={**usual, "TERM": "xterm", **environ})
            os.close(follower)
            assert (b"\x1b[3" in os.read(leader, 1 << 16)) is coloured
            os.close(leader)


ROWS = [Line("train: serving"), Line("row " * 30), Line("  the sentence that matters is long " * 4, sentence=True)]


def test_sentences_wrap_and_rows_are_cut():
    shown = fit(ROWS, 40, 20)
    assert all(len(line.text) <= 40 for line in shown)
    said = " ".join(line.text.strip() for line in shown if line.sentence)
    assert said == " ".join(["the sentence that matters is long"] * 4)
    assert len([line for line in shown if line.text.startswith("row")]) == 1


@pytest.mark.parametrize("height", [1, 3, 5, 8])
def test_a_low_screen_keeps_the_sentences(height):
    """However many readers there are above it, and however far they are scrolled."""
    lines = [*(Line(f"reader {number}") for number in range(50)), Line("bound by: the store", sentence=True)]
    for offset in (0, 7, 1000):
        shown = fit(lines, 80, height, offset)
        assert len(shown) == height
        if height > 1:
            assert Line("bound by: the store", sentence=True) in shown
    assert fit(lines, 80, 8, 1000)[-1].text == "reader 49"
    assert most_offset(lines, 80, 8) == 51 - 8
    assert most_offset(lines, 80, 80) == 0


def test_more_sentences_than_lines_scroll_too():
    lines = [Line(f"sentence {number}", sentence=True) for number in range(9)]
    assert [line.text for line in fit(lines, 80, 3, 6)] == ["sentence 6", "sentence 7", "sentence 8"]


def test_keys_are_read_one_by_one():
    leader, follower = pty.openpty()
    with os.fdopen(follower) as source:
        keyboard = Keyboard(Terminal(), source)
        keyboard._is_terminal = lambda: True
        os.write(leader, b"r\x1b[A\x1b[B\x1bOC\x1b[Dxq\n")
        assert [keyboard.wait(5) for _ in range(6)] == [Key.AGAIN, Key.UP, Key.DOWN, Key.RIGHT, Key.LEFT, Key.QUIT]
    os.close(leader)


def test_top_scrolls_and_quits_at_its_keys():
    """On a real terminal, in a session of its own, as a shell starts it."""
    with served_ring() as served:
        pid, leader = pty.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "ringfeedd", "top", served.name, "--interval", "60"])
        said, deadline = b"", time.monotonic() + 60
        while b"q quit" not in said:
            assert time.monotonic() < deadline, said
            said += os.read(leader, 1 << 16)
        os.write(leader, b"\x1b[B\x1b[C")
        os.write(leader, b"q")
        try:
            while os.read(leader, 1 << 16):
                assert time.monotonic() < deadline
        except OSError:  # it has ended
            pass
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        os.close(leader)


@pytest.mark.parametrize(
    ("number", "noun", "plural", "said"),
    [(1, "pair", "", "1 pair"), (0, "pair", "", "0 pairs"), (1200, "batch", "batches", "1,200 batches")],
)
def test_a_noun_has_its_number(number, noun, plural, said):
    assert count(number, noun, plural) == said


def test_commands_come_in_groups(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    headings = re.findall(r"^([a-z ]+):$", said, re.MULTILINE)
    assert headings == ["run", "look", "set up", "try"]
    assert len(re.findall(r"^  \w", said, re.MULTILINE)) == len(set(re.findall(r"^  (\S+) ", said, re.MULTILINE)))
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert re.findall(r"^(data|rings|decoding|log):$", capsys.readouterr().out, re.MULTILINE) == [
        *("data", "rings", "decoding", "log")
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_has_commands_flags_and_rings(capsys, shell):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("install-service", "linger-s", "sequential", "/dev/shm"):
        assert word in script, word
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script, text=True, check=True)


def test_bash_completes_a_ring(capsys):
    pytest.importorskip("shtab")
    main(["completion", "bash"])
    script = capsys.readouterr().out
    with served_ring() as served:
        asked = f"{script}\nCOMP_WORDS=(ringfeed status {served.name[:-2]}); COMP_CWORD=2; _shtab_ringfeed; "
        done = subprocess.run(
            ["bash", "-c", f"{asked} echo ${{COMPREPLY[@]}}"], capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() == served.name, done
