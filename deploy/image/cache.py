"""What was downloaded and made before, below ~/.cache/headcni/image: each under a digest of all that it comes from.

So what is there is right, and nothing is asked of a registry twice. That also means that newer packages of the same
name are not seen: delete the folder, or say --fresh, for a release.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


class Missing(Exception):
    """What this machine lacks to build, and the command that installs it."""


def root() -> Path:
    return Path(os.environ.get("HEADCNI_IMAGE_DIR") or "~/.cache/headcni/image").expanduser().absolute()


def digest(*parts: str | bytes) -> str:
    whole = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        whole.update(b"%d\n" % len(content) + content)
    return whole.hexdigest()


def folder(name: str, make: Callable[[Path], None], fresh: bool = False) -> Path:
    """The folder of that name; `make` fills it where it is missing. It appears whole."""
    target = root() / name
    if fresh:
        shutil.rmtree(target, ignore_errors=True)
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as draft:
            make(Path(draft, "made"))
            _rename(Path(draft, "made"), target)
    return target


def _rename(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:  # somebody else was quicker
        if not target.is_dir():
            raise
