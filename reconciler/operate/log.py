"""The daemon's log: one event, one line, which a person reads and `grep key=` finds.

    2026-11-21T11:32:34.123Z INFO  answered key=4f1c…@eth0 verb=ADD took_ms=4.2

Callers use the standard library as everybody does: `log.info("answered key=%s verb=%s", key, verb)`. The formatter
puts every field's value that holds blanks, quotes or control characters in quotes, so that no value can break a line
in two or pass for another field. An exception is one line as well, with its cause and the place it came from; its
traceback follows only at level debug.

No secret may get this far (records and intents hold none). `redacted` is the second line of defence: it blanks what
looks like a key, whoever logged it, be it a library or an exception's text.

Rejected: JSON lines (unreadable where they are read most, in `kubectl logs`), and a structured logging library for
what is sixty lines.
"""

from __future__ import annotations

import logging
import re
import sys
import time
import traceback
from collections import Counter
from itertools import zip_longest
from typing import Any, TextIO

from cni.spec import Code, Refusal

LEVELS = ("debug", "info", "warning", "error")
MAX_OF_A_KIND = 20  # more than an operator reads, and status.json carries them all
REDACTED = "[redacted]"

_CONVERSION = re.compile(r"(.?)%[-+ #0-9.]*([a-zA-Z%])")
_PLAIN = re.compile(r"[^\s\"=\x00-\x1f\x7f]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]")
_SECRET_FIELD = re.compile(
    r"""(?ix)
    ( (?: auth[_-]?key | api[_-]?key | private[_-]?key | token | passw(?:or)?d | secret )
      (?! [\w-]*file\b ) [\w-]* ["']? \s*[=:]\s* )
    ( (?:bearer|basic)\s+\S+ | "(?:[^"\\]|\\.)*" | '[^']*' | [^\s,;&"'})\]]+ )"""
)
_SECRET_VALUE = re.compile(
    r"""(?ix) \b
    (?: (?:hs|ts)key-(?!authreq-)[\w-]+  # but authreq: what an operator needs to admit a node
      | [0-9a-f]{48} \b                  # auth keys of Headscale before 0.28
      | privkey:[0-9a-f]+
      | (?<=bearer\s)[\w.~+/=-]{8,}
    )"""
)
# API keys of Headscale before 0.28 look like any word with a dot in it, so only where something says what they are.
_OLD_API_KEY = re.compile(r"(?i)(\bapi[ _-]?key\W{1,3})[\w-]{7}\.[\w-]{32}(?![\w-])")


def setup(level: str, stream: TextIO | None = None) -> Refusal | None:
    """Makes the root logger write to `stream` (standard error). May be repeated, to change the level."""
    if level.lower() not in LEVELS:
        return Refusal(
            Code.INVALID_CONFIGURATION,
            f"log level {level!r} is unknown",
            f"HEADCNI_LOG_LEVEL or logLevel must be one of {', '.join(LEVELS)}",
        )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    for ours in [each for each in root.handlers if isinstance(each.formatter, LineFormatter)]:
        root.removeHandler(ours)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for library in ("asyncio", "watchfiles", "pyroute2", "transitions"):
        logging.getLogger(library).setLevel(logging.WARNING)
    return None


class LineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        template = str(record.msg)
        message = template % _with_fields_quoted(template, record.args) if record.args else template
        message = _CONTROL.sub(_escaped, message)
        line = f"{at}.{int(record.msecs):03d}Z {record.levelname:<5} {message}"
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            if "cause=" not in message:
                line += f" cause={_Shown(error)!r}"
            line += _place(error)
            if logging.getLogger().isEnabledFor(logging.DEBUG):
                line += "\n" + "".join(traceback.format_exception(error)).rstrip()
        return redacted(line)


class _Shown:
    """An argument of a log call; %s and %r write it as one word or in quotes."""

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return quoted(redacted(str(self._value)))

    def __repr__(self) -> str:
        return quoted(redacted(repr(self._value)))


def quoted(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_CONTROL.sub(_escaped, escaped)}"'


def redacted(text: str) -> str:
    text = _SECRET_FIELD.sub(rf"\g<1>{REDACTED}", text)
    text = _OLD_API_KEY.sub(rf"\g<1>{REDACTED}", text)
    return _SECRET_VALUE.sub(REDACTED, text)


class Once:
    """Warnings about what lasts: each key is logged once, and all are kept for status.json.

    A key begins with a word for its kind. Each kind has room of its own, so that a flood of one silences no other.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._texts: dict[str, str] = {}
        self._kinds: Counter[str] = Counter()
        self.said: list[str] = []

    def warn(self, key: str, text: str) -> None:
        kind = _kind(key)
        if key in self._texts or self._kinds[kind] > MAX_OF_A_KIND:
            return
        if self._kinds[kind] == MAX_OF_A_KIND:
            key, text = f"{kind} and more", f"there are more warnings like the last: {MAX_OF_A_KIND} are shown"
        self._kinds[kind] += 1
        self._texts[key] = redacted(text)
        self.said.append(self._texts[key])
        self._log.warning("%s", text)

    def clear(self, key: str) -> bool:
        """It is over, and news when it comes again. True: it had been said."""
        text = self._texts.pop(key, None)
        if text is None:
            return False
        self.said.remove(text)
        self._kinds[_kind(key)] -= 1
        return True


def _kind(key: str) -> str:
    return key.partition(" ")[0]


def _with_fields_quoted(template: str, arguments: Any) -> Any:
    """The arguments; those that the template puts behind an equals sign are fields, and quoted if need be."""
    if not isinstance(arguments, tuple):
        return arguments
    in_field = [match.group(1) == "=" for match in _CONVERSION.finditer(template) if match.group(2) != "%"]
    return tuple(
        _Shown(value) if field and not isinstance(value, int | float) else value
        for field, value in zip_longest(in_field, arguments)
    )


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    last = frames[-1]
    return f" at={quoted(f'{last.filename}:{last.lineno}')}"
