"""The direction of imports: a package imports those below it, never those above. `docs/design.md` shows the order."""

import ast
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

DAEMON = (
    {"__main__"},
    {"cli", "bench"},
    {"demo"},
    {"supervisor"},
    {"recovery", "worker", "web", "reporting"},
    {"config"},
    {"ring", "fetch"},
    {"cache", "catalog"},
    {"storage"},
    {"shm", "nodes"},
    {"decode", "order", "log", "fakegcs"},
    {"system"},
    {"errors"},
)
"""The daemon's packages and modules by layers, the topmost first. Those of one layer do not import each other."""

CONSUMER = (
    {"cli", "torch"},
    {"daemon"},
    {"__init__"},
    {"reader", "interactive"},
    {"health"},
    {"shm", "plan", "epochs"},
    {"log", "text", "arguments"},
    {"errors"},
)
"""The consumer's. ``plan`` and ``epochs`` know the layout's bounds, and lanes are described by them."""

TOGETHER = {frozenset(pair) for pair in [("cli", "bench"), ("plan", "shm"), ("epochs", "shm"), ("plan", "epochs")]}
"""Pairs of one layer that may import each other; `bench` and `cli` do so inside functions."""

PACKAGES = {"ringfeedd": ("daemon", DAEMON), "ringfeed": ("consumer", CONSUMER)}


def imported(path: Path) -> Iterator[str]:
    """Yield the full names of all of a module's imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def part_of(name: str, top: str) -> str:
    """Return the package or module below `top` to which a dotted name belongs."""
    folder, _ = PACKAGES[top]
    first = [*name.split("."), "__init__"][1]
    there = REPOSITORY / folder / top / first
    return first if there.is_dir() or there.with_suffix(".py").is_file() else "__init__"


def edges(top: str) -> Iterator[tuple[str, str, str]]:
    """Yield (importing part, imported part, what) of one of the two distributions."""
    folder, _ = PACKAGES[top]
    root = REPOSITORY / folder
    for path in sorted((root / top).rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        for name in imported(path):
            if name.partition(".")[0] == top:
                yield part_of(module, top), part_of(name, top), f"{module} imports {name}"


def wrong(top: str) -> list[str]:
    _, layers = PACKAGES[top]
    layer = {part: number for number, parts in enumerate(layers) for part in parts}
    found = []
    for ours, theirs, what in edges(top):
        allowed = ours == theirs or layer[ours] < layer[theirs] or frozenset((ours, theirs)) in TOGETHER
        # the package's own __init__ is empty, and may be named by anybody
        if not allowed and theirs != "__init__":
            found.append(what)
    return found


def test_the_daemons_packages_import_downwards():
    assert wrong("ringfeedd") == []


def test_the_consumers_packages_import_downwards():
    assert wrong("ringfeed") == []


def test_the_consumer_never_imports_the_daemon():
    """`ringfeed.daemon` starts one as a process; it checks settings by the daemon's own `Config`, inside a function."""
    names = {
        (str(path.relative_to(REPOSITORY)), name)
        for path in (REPOSITORY / "consumer").rglob("*.py")
        for name in imported(path)
        if name.startswith("ringfeedd")
    }
    assert {path for path, _ in names} <= {"consumer/ringfeed/daemon/shared.py"}


def test_no_package_has_more_than_fourteen_modules():
    for package in ("daemon/ringfeedd", "consumer/ringfeed"):
        for folder in {path.parent for path in (REPOSITORY / package).rglob("*.py")}:
            modules = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("__")]
            assert len(modules) <= 14 or folder.name == "bench", folder
