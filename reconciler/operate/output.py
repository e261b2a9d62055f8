"""How the operator's commands print: tables that fit a terminal, JSON and YAML that lose nothing.

A table is never wider than 100 columns: of the columns that may be cut the widest gives way first, and an ellipsis
shows that it did; `wide` cuts nothing. Instants are local time with its offset, because that is what other logs of
the node show, with the age beside them, because that is what one wants to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson

WIDTH = 100
FORMATS = ("table", "wide", "json", "yaml")


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], wide: bool = False, cut: Sequence[str] = ()) -> str:
    """`cut` names the columns that may be; by default all."""
    grid = [list(titles), *[[cell or "-" for cell in row] for row in rows]]
    widths = [max(len(cell) for cell in column) for column in zip(*grid, strict=True)]
    gaps = 2 * (len(widths) - 1)
    soft = [number for number, title in enumerate(titles) if title in (cut or titles)]
    while not wide and sum(widths) + gaps > WIDTH:
        widths[max(soft, key=lambda number: widths[number])] -= 1
    right = [_numeric(column) for column in zip(*grid[1:], strict=True)] if rows else [False] * len(widths)
    lines = []
    for row in grid:
        cells = [_fitted(cell, width, to_right) for cell, width, to_right in zip(row, widths, right, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _fitted(cell: str, width: int, to_right: bool) -> str:
    if len(cell) > width:
        return cell[: width - 1] + "…"
    return cell.rjust(width) if to_right else cell.ljust(width)


def _numeric(column: Sequence[str]) -> bool:
    return all(cell == "-" or cell.removesuffix(" ms").replace(".", "", 1).isdigit() for cell in column)


def fields(pairs: Sequence[tuple[str, str]]) -> str:
    """Name and value per line; a value of several lines is indented."""
    width = max(len(name) for name, _ in pairs) + 2
    return "\n".join(name.ljust(width) + value.replace("\n", "\n" + " " * width) for name, value in pairs)


def emit(data: Any, form: str) -> None:
    text = orjson.dumps(data, option=orjson.OPT_INDENT_2).decode()
    if form == "yaml":
        import yaml

        print(yaml.safe_dump(orjson.loads(text), sort_keys=False, allow_unicode=True), end="")
    else:
        print(text)


def instant(at: float, precision: str = "seconds") -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec=precision)


def instant_and_age(at: float, now: float) -> str:
    return f"{instant(at)} ({age(at, now)} ago)" if at <= now else f"{instant(at)} (in {age(now, at)})"


def age(since: float, now: float) -> str:
    """The two largest units, like 3m12s or 2d4h."""
    left = max(0, int(now - since))
    parts: list[str] = []
    for unit, seconds in (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
        elif parts:
            break
    return "".join(parts[:2])


def milliseconds(took: float) -> str:
    return f"{took:.1f} ms" if took < 1000 else f"{took:.0f} ms"
