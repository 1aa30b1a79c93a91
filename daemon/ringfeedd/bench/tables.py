"""Results as Markdown, between markers in a page, so that one command writes all of its tables again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ringfeedd.bench.results import FigureRow, RateRow, Result, Spread

_BLOCK = "<!-- bench: {name} -->"
_END = "<!-- end of bench -->"


def markdown(result: Result) -> str:
    """One command's tables and notes."""
    parts = [result.what]
    if result.rates:
        parts.append(_rates(result.rates))
    if result.figures:
        parts.append(_figures(result.figures))
    parts += [f"- {note}" for note in result.notes]
    return "\n\n".join(parts)


def rewritten(page: str, blocks: Mapping[str, str]) -> str:
    """The page with new text between its markers; blocks that it has no markers for are left out."""
    for name, text in blocks.items():
        begin = re.escape(_BLOCK.format(name=name))
        block = f"{_BLOCK.format(name=name)}\n\n{text}\n\n{_END}"
        page = re.sub(f"{begin}.*?{re.escape(_END)}", lambda _, block=block: block, page, flags=re.DOTALL)  # type: ignore[misc]
    return page


def _rates(rows: Iterable[RateRow]) -> str:
    lines = [
        "| | pairs/s | least to most | ratio | CPU ms a pair | least to most | of which |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        parts = ", ".join(f"{_part(name)} {value:.2f}" for name, value in row.parts_ms.items() if value >= 0.005)
        rate, cpu = row.pairs_per_s, row.cpu_ms
        lines.append(
            f"| {row.name} | {rate.median:,.0f} | {rate.least:,.0f} to {rate.most:,.0f} | {row.ratio:.2f} "
            f"| {cpu.median:.2f} | {cpu.least:.2f} to {cpu.most:.2f} | {parts} |"
        )
    return "\n".join(lines)


def _figures(rows: Iterable[FigureRow]) -> str:
    lines = ["| | median | least to most | target |", "|---|---:|---:|---|"]
    for row in rows:
        value = row.value
        lines.append(f"| {row.name} | {_number(value.median)} {row.unit} | {_range(value)} {row.unit} | {row.target} |")
    return "\n".join(lines)


def _part(name: str) -> str:
    return {"daemon": "supervisor", "daemon.children": "workers", "floor.children": "all"}.get(name, name)


def _range(value: Spread) -> str:
    return f"{_number(value.least)} to {_number(value.most)}"


def _number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
