"""Certificates, keys and tokens that a kubeconfig holds or names, read with bounds.

A path in a kubeconfig is one of the host, and counts from the kubeconfig's folder on. A file that was read is
remembered by the digest of its content, so that any way of exchanging it is noticed. Nothing of the content is told.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.kube.kubeconfig import ROOT, content_of, refused
from reconciler.node import files

LONGEST_TOKEN = 64 << 10  # bytes


@dataclass(frozen=True, slots=True)
class HostFile:
    path: Path  # as the host names it
    root: Path = ROOT

    def digest(self) -> bytes:
        """Of nothing, if it cannot be read."""
        content = files.read(self.root, str(self.path))
        return hashlib.blake2b(content if isinstance(content, bytes) else b"", digest_size=16).digest()

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part of a kubeconfig is: its words, and where its paths begin."""

    words: str
    folder: Path
    root: Path = ROOT

    def file(self, given: str) -> HostFile:
        return HostFile(self.folder / given, self.root)


@dataclass(frozen=True, slots=True)
class Material:
    content: bytes = field(repr=False)
    words: str  # where it is from
    file: HostFile | None = None
    digest: bytes = b""  # of that file, from before it was read


def read(part: Mapping[str, Any], key: str, place: Place) -> Material | Refusal | None:
    """Of `key` or `key`-data; `None`: there is neither."""
    inline, named = part.get(f"{key}-data"), part.get(key)
    if inline:
        words = f"{key}-data of {place.words}"
        try:
            return Material(base64.b64decode(inline, validate=True), words)
        except (binascii.Error, TypeError, ValueError):
            return refused(f"{words} is not base64", "take the kubeconfig anew; a line of it may be cut off")
    if not named:
        return None
    words = f"{key} {named} of {place.words}"
    if not isinstance(named, str):
        return refused(f"{key} of {place.words} is not a path", "write the path of a file")
    file = place.file(named)
    before = file.digest()
    content = content_of(words, file.path, file.root)
    return content if isinstance(content, Refusal) else Material(content, words, file, before)


def read_token(file: HostFile) -> str | Refusal:
    words = f"the token file {file}"
    content = content_of(words, file.path, file.root)
    if isinstance(content, Refusal):
        return Refusal(Trouble.API_CREDENTIALS, content.msg, content.details)
    token = content.decode("utf-8", "replace").strip()
    if not token or len(token) > LONGEST_TOKEN or not all("!" <= each <= "~" for each in token):
        what = "is empty" if not token else "holds something else than a token"
        return Refusal(Trouble.API_CREDENTIALS, f"{words} {what}", "it must hold one token, and nothing else")
    return token


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says of itself, in clear. Nobody has verified it."""

    subject: str = ""
    ends: float | None = None


def claims(token: str) -> Claims:
    """Nothing, if it is not a JSON web token."""
    parts = token.removeprefix("Bearer ").split(".")
    try:
        told = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        subject, ends = told.get("sub"), told.get("exp")
    except (IndexError, ValueError, AttributeError):
        return Claims()
    return Claims(subject if isinstance(subject, str) else "", float(ends) if isinstance(ends, int | float) else None)
