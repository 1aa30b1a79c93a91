"""The demo's child processes: started with their output kept, waited for, and always stopped."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from ringfeedd.demo.errors import DemoError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

TAIL_LINES = 15
"""How many of a child's last lines an error shows."""

KEPT_LINES = 500
KILL_AFTER_S = 5.0
"""How long the rest of a child's session may live after the child itself has ended."""

_LINE_END = re.compile(r"[\r\n]+")  # a progress bar ends its lines with CR


class Child:
    """One child process in a session of its own, its stdout and stderr read as one stream of lines.

    A session of its own: a Ctrl-C at the terminal then reaches the demo alone, which stops its children in their order,
    and what a child leaves behind (ranks, workers) can be ended as a group.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        echo: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Starts it.

        Args:
            name: how errors call it, e.g. ``"the daemon"``.
            command: the executable and its arguments.
            log: a file that gets everything the child prints.
            echo: pass the output on to stderr as well, as it comes.
            environ: its whole environment; this process's own when None.

        Raises:
            DemoError: the executable cannot be started.
        """
        self.name = name
        self._log = log
        self._echo = echo
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._first_kept = 0  # number of the line at the left end of _lines
        self._changed = threading.Condition()
        self._output_ended = False
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environ,
            )
        except OSError as error:
            raise DemoError(f"{name} could not be started: {error}") from error
        self._reader = threading.Thread(target=self._read_output, name=f"output of {name}", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Child({self.name!r}, pid {self._process.pid}, exit code {self._process.returncode})"

    @property
    def pid(self) -> int:
        """Its process id, which is also its session's."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._process.poll()

    def tail(self) -> str:
        """Its last lines, indented, each after a line feed; for the end of an error's sentence."""
        with self._changed:
            lines = [line for line in self._lines if line.strip()][-TAIL_LINES:]
        return "".join(f"\n  | {line}" for line in lines) or "\n  | (it printed nothing)"

    def wait_for_line(self, pattern: str, *, timeout_s: float) -> str:
        """The first line that the regular expression is found in.

        Raises:
            DemoError: it ended, or the time passed, before it printed such a line.
        """
        (line,) = self.wait_for_lines(pattern, 1, timeout_s=timeout_s)
        return line

    def wait_for_lines(self, pattern: str, count: int, *, timeout_s: float) -> list[str]:
        """The first ``count`` lines that the regular expression is found in.

        Raises:
            DemoError: it ended, or the time passed, before it printed so many.
        """
        expression = re.compile(pattern)
        deadline = time.monotonic() + timeout_s
        seen = 0
        found: list[str] = []
        with self._changed:
            while True:
                fresh = list(self._lines)[max(0, seen - self._first_kept) :]
                found += [line for line in fresh if expression.search(line)]
                if len(found) >= count:
                    return found[:count]
                seen = self._first_kept + len(self._lines)
                if self._output_ended:
                    break
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    raise DemoError(f"{self.name} was not ready within {timeout_s:.0f} s; it said last:{self.tail()}")
        raise DemoError(f"{self.name} ended too early ({self._ending()}); it said last:{self.tail()}")

    def wait(self, *, timeout_s: float) -> None:
        """Waits for its end with exit code 0.

        Raises:
            DemoError: another exit code, or the time passed.
        """
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"{self.name} did not end within {timeout_s:.0f} s; it said last:{self.tail()}") from error
        if code != 0:
            self._reader.join(KILL_AFTER_S)  # for its last words
            raise DemoError(f"{self.name} failed ({self._ending()}); it said last:{self.tail()}")

    def stop(self, *, timeout_s: float = 10.0) -> int:
        """Asks it to end by SIGTERM, ends it and its whole session by SIGKILL when it does not; any number of times.

        Returns:
            Its exit code; negative for the signal that ended it.
        """
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):  # no process of the session is left: the usual case
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        self._reader.join(KILL_AFTER_S)
        return code

    def _ending(self) -> str:
        """How it ended, in words."""
        code = self._process.wait()
        if code >= 0:
            return f"exit code {code}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal
            return f"killed by signal {-code}"

    def _read_output(self) -> None:
        """Takes what the child prints, until it has closed its end; runs in a thread of its own."""
        assert self._process.stdout is not None
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        rest = ""
        with self._process.stdout as stream, self._log.open("ab") as log:
            while piece := os.read(stream.fileno(), 65536):
                log.write(piece)
                log.flush()
                text = decode(piece)
                if self._echo:
                    sys.stderr.write(text)
                    sys.stderr.flush()
                *whole, rest = _LINE_END.split(rest + text)
                self._add(whole)
        self._add([rest] if rest else [], ended=True)

    def _add(self, lines: list[str], *, ended: bool = False) -> None:
        with self._changed:
            for line in lines:
                self._first_kept += len(self._lines) == KEPT_LINES
                self._lines.append(line)
            self._output_ended = self._output_ended or ended
            self._changed.notify_all()
