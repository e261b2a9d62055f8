"""Whether a plugin runs here: it is asked for its versions, which needs no daemon, no network and no file."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import orjson

from cni.spec import SUPPORTED_VERSIONS, Refusal
from reconciler.install.codes import Trouble

SECONDS = 10.0
_ASK = b'{"cniVersion": "1.0.0"}'


def try_out(path: Path, source: Path) -> Refusal | None:
    """`path`: a copy of `source` where it is to run."""
    env = {"CNI_COMMAND": "VERSION", "PATH": os.defpath}
    try:
        done = subprocess.run([path], input=_ASK, env=env, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        cure = "run it by hand, with CNI_COMMAND=VERSION, and see what it waits for"
        return _refused(source, f"gave no answer within {SECONDS:g} s", cure)
    except OSError as error:
        return _cannot_run(path, source, error)
    if done.returncode == 0 and _speaks(done.stdout):
        return None
    answer = (done.stdout + done.stderr).decode("utf-8", "replace").strip()[:200] or "nothing"
    what = f"does not answer as a CNI plugin: exit code {done.returncode}, {answer}"
    return _refused(source, what, "give the plugin's file, built for this machine")


def _speaks(answer: bytes) -> bool:
    try:
        versions = orjson.loads(answer)["supportedVersions"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return False
    return isinstance(versions, list) and not set(SUPPORTED_VERSIONS).isdisjoint(map(str, versions))


def _cannot_run(path: Path, source: Path, error: OSError) -> Refusal:
    where, machine = path.parent, os.uname().machine
    if error.errno == errno.ENOEXEC:
        what, cure = f"is not a program for this machine ({machine})", f"install the one built for {machine}"
    elif error.errno == errno.EACCES and os.statvfs(path).f_flag & os.ST_NOEXEC:
        what = f"cannot be executed in {where}, which is mounted noexec"
        cure = f"mount {where} without noexec, or name another directory with cni.binDir"
    elif error.errno == errno.ENOENT:
        what, cure = "needs an interpreter or loader that is not here", "install the static one (make build)"
    else:
        what, cure = f"cannot be executed in {where}: {error.strerror}", "see that root may execute it there"
    return _refused(source, what, cure)


def _refused(source: Path, what: str, cure: str) -> Refusal:
    return Refusal(Trouble.PLUGIN_FILE, f"{source} {what}", cure)
