"""The doctor's findings on paper: each with its evidence and its cure, and what was looked at."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from reconciler.operate.doctor.complaint import Complaint, Examined
from reconciler.operate.output import WIDTH, fields

_INDENT = 9


def as_data(complaints: Sequence[Complaint], examined: Sequence[Examined]) -> dict[str, Any]:
    return {
        "complaints": [asdict(each) for each in complaints],
        "looked_at": {each.theme: each.saw for each in examined},
    }


def page(complaints: Sequence[Complaint], examined: Sequence[Examined], wide: bool) -> str:
    looked_at = "looked at\n" + textwrap.indent(fields([(each.theme, each.saw) for each in examined]), "  ")
    return "\n\n".join([_verdict(complaints), *[_shown(each, wide) for each in complaints], looked_at])


def _verdict(complaints: Sequence[Complaint]) -> str:
    counts = Counter(each.level.value for each in complaints)
    return ", ".join(f"{count} {level}{'s'[: count != 1]}" for level, count in counts.items()) or "nothing is wrong"


def _shown(each: Complaint, wide: bool) -> str:
    code = f" (code {each.code})" if each.code else ""
    lines = [f"{each.level.value.upper():{_INDENT}}{each.theme}: {each.what}{code}"]
    lines += [f"{name:{_INDENT}}{text}" for name, text in (("  seen", each.evidence), ("  cure", each.cure)) if text]
    return "\n".join(line if wide else _folded(line) for line in lines)


def _folded(line: str) -> str:
    """Words are kept whole: commands and paths are to be copied."""
    indent = " " * _INDENT
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
