"""`--bundle FILE`: what somebody else needs to see, in one archive: findings, records, status, views, rules.

Nothing of it is a secret: records and settings hold none by construction, and what looks like a key is blanked all the
same. It names pods, addresses and nodes, so it is readable by its owner only.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import orjson

from cni.spec import Code, Refusal
from reconciler.operate.doctor.patient import Patient
from reconciler.operate.log import redacted
from reconciler.settings import SETTINGS, as_text

MAX_BYTES = 4 << 20  # of each file
MAX_FILES = 2000
SECONDS = 10
FILES = ("status.json", "mesh-view.json", "mesh.json", "host.json", "podcidr.json")
DIRECTORIES = ("attachments", "intents", "quarantine", "history")
COMMANDS = (
    ("nft", "--stateless", "list", "ruleset"),
    ("ip", "-details", "address"),
    ("ip", "rule"),
    ("ip", "-6", "rule"),
    ("ip", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
)


def write(target: Path, patient: Patient, findings: object) -> Refusal | None:
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        cure = "name a file that is not there yet, in a directory that is"
        return Refusal(Code.IO_FAILURE, f"{target} cannot be written: {os.strerror(error.errno or 0)}", cure)
    with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in _contents(patient, findings):
            entry = tarfile.TarInfo(f"headcni/{name}")
            clean = redacted(content.decode(errors="replace")).encode()
            entry.size, entry.mtime, entry.mode = len(clean), int(patient.now), 0o600
            archive.addfile(entry, io.BytesIO(clean))
    return None


def _contents(patient: Patient, findings: object) -> Iterator[tuple[str, bytes]]:
    yield "doctor.json", orjson.dumps(findings, option=orjson.OPT_INDENT_2)
    settings = {each.key: as_text(getattr(patient.config, each.field)) for each in SETTINGS}
    yield "config.json", orjson.dumps(settings, option=orjson.OPT_INDENT_2)
    for path in _files(patient.root):
        content = _content(path)
        if content is not None:
            yield f"state/{path.relative_to(patient.root)}", content
    for command in COMMANDS:
        yield f"commands/{'-'.join(word.lstrip('-') for word in command)}.txt", _output(command)


def _files(root: Path) -> list[Path]:
    """Of each directory the last ones by name: for the history, the latest."""
    found = [root / name for name in FILES]
    for name in DIRECTORIES:
        found += sorted((root / name).glob("*"))[-MAX_FILES:]
    return found


def _content(path: Path) -> bytes | None:
    if not path.is_file():  # not there, gone meanwhile, a FIFO
        return None
    with path.open("rb") as file:
        return file.read(MAX_BYTES)


def _output(command: tuple[str, ...]) -> bytes:
    binary = shutil.which(command[0], path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if binary is None:
        return f"the command {command[0]} is missing\n".encode()
    try:
        done = subprocess.run((binary, *command[1:]), capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"took longer than {SECONDS} s\n".encode()
    return (done.stdout or done.stderr)[:MAX_BYTES]
