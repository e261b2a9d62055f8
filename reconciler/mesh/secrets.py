"""The two keys of Headscale: from an environment variable or a file, and from nowhere else.

A key is read when it is used and not kept, so a file that is replaced (a renewed Secret) counts from the next use on.
What cannot be a key is refused with the name of the variable or file, never with a part of what it holds: a file that
was named by mistake may hold any other secret.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble

MAX_BYTES = 4096


class Secret(NamedTuple):
    variable: str
    file_key: str  # the setting that names a file instead
    meaning: str


AUTH_KEY = Secret(
    "HEADCNI_AUTH_KEY",
    "headscale.authKeyFile",
    "The key by which a node joins (`headscale preauthkeys create --reusable`).",
)
API_KEY = Secret(
    "HEADCNI_API_KEY",
    "headscale.apiKeyFile",
    "A key of Headscale's API (`headscale apikeys create`), for `mesh.approval` key or the approver.",
)
SECRETS = (AUTH_KEY, API_KEY)


def have_key(variable: str, file: Path | None, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a place to read one from; an empty variable is none. What it holds, `read_key` finds out."""
    return file is not None or bool(environ.get(variable, "").strip())


def read_key(variable: str, file: Path | None, environ: Mapping[str, str] = os.environ) -> str | Refusal:
    given = environ.get(variable, "").strip()
    if given:
        return _checked(variable, given, len(given))
    if file is None:
        return _refused("no key is given", f"set {variable}, or name a file that holds the key")
    try:
        content = _content(file)
    except OSError as error:
        return _refused(f"{file} cannot be read: {error.strerror}", "name a file that exists and that root may read")
    if isinstance(content, Refusal):
        return content
    return _checked(str(file), content.decode("utf-8", "replace").strip(), len(content))


def _content(file: Path) -> bytes | Refusal:
    opened = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not make us wait
    try:
        mode = os.fstat(opened).st_mode
        if stat.S_ISDIR(mode):
            return _refused(f"{file} is a directory", "a mounted Secret is one: name the file of its key inside it")
        if not stat.S_ISREG(mode):
            return _refused(f"{file} is not a regular file", "write the key to a file")
        return os.read(opened, MAX_BYTES + 1)
    finally:
        os.close(opened)


def _checked(place: str, key: str, size: int) -> str | Refusal:
    cure = "it must hold the key and nothing else"
    if size > MAX_BYTES:
        return _refused(f"{place} holds more than {MAX_BYTES} bytes", cure)
    if not key:
        return _refused(f"{place} is empty", cure)
    if len(key.splitlines()) > 1:
        return _refused(f"{place} holds several lines", cure)
    if not all("!" <= each <= "~" for each in key):
        return _refused(f"{place} holds blanks or characters that no key has", cure)
    return key


def _refused(msg: str, cure: str) -> Refusal:
    return Refusal(Trouble.SECRET, msg, cure)
