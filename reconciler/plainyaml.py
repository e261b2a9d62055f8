"""YAML and JSON that somebody else wrote, read within limits, every scalar as text.

It is composed here from libyaml's events. PyYAML's own composer is recursive in C and dies of a file of ten thousand
brackets, taking the daemon along; its constructors raise whatever a date that is none makes them raise. Text is what a
CIDR is, and what a setting's parser takes from the environment as well. JSON is tried first where a file looks like it:
it may hold tabs, and YAML may not.

Where a file cannot be understood the place is told, never its words: a kubeconfig holds keys.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

MAX_DEPTH = 64
MAX_VALUES = 20_000  # a kubeadm manifest has a few hundred
_NULLS = ("", "~", "null", "Null", "NULL")  # where they stand without quotes


@dataclass(frozen=True, slots=True)
class Malformed:
    what: str


class _Wrong(Exception):
    pass


def documents(raw: bytes, unique: bool = False) -> list[Any] | Malformed:
    """Lists, mappings and text. `unique`: a key that is there twice is an error; else the last one counts."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return Malformed(f"is not text, at byte {error.start}")
    if text.lstrip().startswith(("{", "[")):
        try:
            return [orjson.loads(text)]
        except orjson.JSONDecodeError:
            pass  # YAML has such brackets, too
    return _yaml(text, unique)


def kind_of(document: Any) -> str:
    return "keys" if isinstance(document, dict) else "a list" if isinstance(document, list) else "a text"


def _yaml(text: str, unique: bool) -> list[Any] | Malformed:
    import yaml  # only where there is a file: it costs a start ten milliseconds

    try:
        return list(_composed(yaml, text, unique))
    except _Wrong as error:
        return Malformed(str(error))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return Malformed(f"is cut off, or not YAML,{place}")
    except yaml.YAMLError:
        return Malformed("is not YAML: it holds control characters")


def _composed(yaml: Any, text: str, unique: bool) -> Iterator[Any]:
    """Out of a flat stream of events."""
    stack: list[tuple[Any, list[Any], str | None]] = []  # what it is, what it holds, and the anchor it is known by
    anchors: dict[str, Any] = {}
    for count, event in enumerate(yaml.parse(text, Loader=getattr(yaml, "CBaseLoader", yaml.BaseLoader))):
        if count > MAX_VALUES or len(stack) > MAX_DEPTH:
            raise _Wrong(f"holds more than {MAX_VALUES} values, or is nested deeper than {MAX_DEPTH}")
        anchor: str | None = getattr(event, "anchor", None)
        if isinstance(event, yaml.SequenceStartEvent | yaml.MappingStartEvent):
            stack.append((type(event), [], anchor))
            continue
        if isinstance(event, yaml.ScalarEvent):
            value: Any = None if not event.style and not event.tag and event.value in _NULLS else event.value
        elif isinstance(event, yaml.AliasEvent):
            anchor, value = None, anchors.get(event.anchor)
        elif isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
            kind, items, anchor = stack.pop()
            value = items if kind is yaml.SequenceStartEvent else _mapping(items, unique, event.start_mark.line)
        else:
            continue
        if anchor:
            anchors[anchor] = value
        if stack:
            stack[-1][1].append(value)
        else:
            yield value


def _mapping(items: list[Any], unique: bool, line: int) -> dict[str, Any]:
    pairs = [(key, value) for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, str)]
    made = dict(pairs)
    if unique and len(made) < len(pairs):
        twice = next(key for number, (key, _) in enumerate(pairs) if key in [name for name, _ in pairs[:number]])
        raise _Wrong(f"has the key {twice!r} twice, before line {line + 1}")
    return made
