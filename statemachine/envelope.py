"""What every file of ours has around its content: JSON, its format's name and version first, a checksum last.

A newer version than ours is left alone and reported (`UnknownVersion`); anything else that cannot be read is damage
(`Damaged`), and the caller moves it aside. What can be derived again needs no checksum, and is only `parsed`.
"""

from __future__ import annotations

import zlib
from typing import Any

import orjson

PRETTY = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


class Damaged(Exception):
    """These bytes are not what the file is for; the message says what is wrong with them."""


class UnknownVersion(Exception):
    """A file of a newer version than this program knows."""


def sealed(body: dict[str, Any]) -> bytes:
    return orjson.dumps({**body, "crc32": zlib.crc32(orjson.dumps(body))}, option=PRETTY)


def unsealed(raw: bytes, known: str) -> dict[str, Any]:
    body = parsed(raw, known)
    crc = body.pop("crc32", None)
    if crc != zlib.crc32(orjson.dumps(body)):
        raise Damaged(f"checksum {crc} does not match the content")
    return body


def parsed(raw: bytes, known: str) -> dict[str, Any]:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Damaged("empty file" if not raw else f"not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Damaged("not a JSON object")
    check_format(body.get("format"), known)
    return body


def check_format(found: object, known: str) -> None:
    name, _, version = known.rpartition("/")
    if found == known:
        return
    if isinstance(found, str) and found.startswith(name + "/") and found[len(name) + 1 :].isdecimal():
        if int(found[len(name) + 1 :]) > int(version):
            raise UnknownVersion(f"format {found}, this program knows up to {known}")
    raise Damaged(f"format is {found!r}, expected {known!r}")
