"""The sentences that a user can meet, as they stand in the code: found by its syntax, what varies as ``...``."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("consumer/ringfeed", "daemon/ringfeedd")

TOOLS = ("daemon/ringfeedd/demo", "daemon/ringfeedd/fakegcs", "daemon/ringfeedd/config")
"""Tools of their own, and the settings, whose errors are complete with the file's line."""

SHOWN = {
    "caches.py",
    "command.py",
    "files.py",
    "commands.py",
    "main.py",
    "serve.py",
    "completion.py",
    "config.py",
    "checks.py",
    "metrics.py",
    "document.py",
    "report.py",
    "status.py",
    "top.py",
    "doctor.py",
    "sections.py",
    "charts.py",
    "counters.py",
    "evidence.py",
    "verdict.py",
}
"""Files whose texts are tables, help and findings that bring their cure along; only their errors count."""

BENCH = "daemon/ringfeedd/bench"
"""Likewise: its tables' captions and its help are no trouble; its errors are."""

QUIET = {"info", "debug", "_say"}
_FORMAT = re.compile(r"%(?:[-+ #0]*\d*(?:\.\d+)?[diouxXeEfFgGcrsa])")


def words(node: ast.expr) -> str:
    """The fixed words of a text, what varies as ``...``; ``...`` alone where nothing is fixed."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(words(part) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return words(left) + words(right)
        case _:
            return "..."


def normal(text: str) -> str:
    """One space between words, one ``...`` where several would follow each other, no marks of code."""
    return re.sub(r"\.\.\.(?:[\s'\"]*\.\.\.)+", "...", " ".join(text.replace("`", "").split()))


def _says_something(text: str) -> bool:
    return " " in text and len(re.findall(r"[A-Za-z]{2,}", text)) >= 4


def _texts(node: ast.AST, *, errors_only: bool) -> Iterator[ast.expr]:
    """The largest texts below a node, without docstrings, what only shows an object, and what is no trouble."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.FunctionDef(name="__repr__"):
            return
        case ast.Call() if _called(node) in QUIET:
            return
        case ast.Call() if errors_only and _called(node).endswith("Error"):
            errors_only = False
        case ast.JoinedStr() | ast.BinOp(op=ast.Add()) | ast.Constant(value=str()) if not errors_only:
            if re.search("[A-Za-z]", words(node)):
                yield node
                for inner in ast.walk(node):
                    if isinstance(inner, ast.IfExp):  # a condition within a text has texts of its own
                        yield from _texts(inner, errors_only=errors_only)
                return
        case _:
            pass
    for child in ast.iter_child_nodes(node):
        yield from _texts(child, errors_only=errors_only)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def messages() -> dict[str, str]:
    """Where each sentence stands, by its fixed words."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            where = str(path.relative_to(REPOSITORY))
            if where.startswith(TOOLS):
                continue
            errors_only = path.name in SHOWN or where.startswith(BENCH)
            for node in _texts(ast.parse(path.read_text()), errors_only=errors_only):
                text = normal(_FORMAT.sub("...", words(node)))
                if _says_something(text):
                    found.setdefault(text, f"{where}:{node.lineno}")
    return found


if __name__ == "__main__":
    for text, where in messages().items():
        print(f"{where}: {text}")
