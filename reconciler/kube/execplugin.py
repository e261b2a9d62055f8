"""The command that a kubeconfig names to get credentials from, with a bound on its time.

The package's own runner waits for ever and passes on what the command printed. This one ends the command with all its
children, and tells its name and nothing else: arguments, environment and output may hold secrets.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.kube.kubeconfig import Kubeconfig
from reconciler.parsers import boolean

TIME = 10.0  # seconds
_running: set[subprocess.Popen[bytes]] = set()
LARGEST = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Issued:
    user: Mapping[str, str] = field(repr=False)  # in the keys of a kubeconfig's user
    expires: float | None = None


def run(chosen: Kubeconfig, within: float = TIME) -> Issued | Refusal:
    spec = chosen.user["exec"]
    if not isinstance(spec, Mapping) or not all(isinstance(spec.get(each), str) for each in ("command", "apiVersion")):
        return _refused(chosen, "exec plugin", "has no command or no apiVersion", "correct it there")
    if not all(isinstance(spec.get(each) or [], list) for each in ("args", "env")):
        return _refused(chosen, "exec plugin", "has args or env that are no lists of text", "correct it there")
    shown = f"exec plugin {spec['command']}"
    try:
        process = _start(chosen, spec)
    except OSError as error:
        return _refused(chosen, shown, f"cannot be run: {error.strerror}", "install it where the daemon runs")
    except ValueError:
        return _refused(chosen, shown, "has a NUL in a word of its", "correct it there")
    _running.add(process)
    with process:
        printed = _printed(process, within)
    _running.discard(process)
    if printed is None:
        return _refused(chosen, shown, f"did not end within {within:g} s", "run it by hand to see what it waits for")
    if process.returncode:
        return _refused(chosen, shown, f"failed with {process.returncode}", "run it by hand to see why")
    cure = "run it by hand: it must print an ExecCredential with a token, or a certificate and its key"
    return _issued(printed) or _refused(chosen, shown, "printed no credentials", cure)


def _start(chosen: Kubeconfig, spec: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    base, command = chosen.file.parent, spec["command"]
    asked: dict[str, Any] = {"interactive": False}
    if boolean(spec.get("provideClusterInfo") or False) is True:
        asked["cluster"] = dict(chosen.cluster)
    question = {"apiVersion": spec["apiVersion"], "kind": "ExecCredential", "spec": asked}
    given = [each for each in spec.get("env") or () if isinstance(each, Mapping)]
    environment = {**os.environ, **{str(each.get("name")): str(each.get("value")) for each in given}}
    return subprocess.Popen(
        [str(base / command) if "/" in command else command, *map(str, spec.get("args") or ())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=base,
        env=environment | {"KUBERNETES_EXEC_INFO": orjson.dumps(question).decode()},
        start_new_session=True,
    )


def _printed(process: subprocess.Popen[bytes], within: float) -> bytes | None:
    """`None`: it did not end in time, and is killed with its children, of which any may hold the pipe open."""
    give_up = time.monotonic() + within
    pipe, printed = process.stdout, b""
    assert pipe is not None
    while select.select([pipe], [], [], max(0.0, give_up - time.monotonic()))[0]:
        part = os.read(pipe.fileno(), 1 << 16)
        printed = (printed + part)[:LARGEST]
        if not part:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, give_up - time.monotonic()))
                return printed
            break
    _kill(process)
    return None


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@atexit.register
def _kill_all() -> None:
    """The daemon ends while one runs; its thread is not waited for."""
    for process in list(_running):
        _kill(process)


def _issued(printed: bytes) -> Issued | None:
    try:
        status = orjson.loads(printed)["status"]
        token, certificate, key = (status.get(each) for each in ("token", "clientCertificateData", "clientKeyData"))
        until = status.get("expirationTimestamp")
        expires = datetime.fromisoformat(until).timestamp() if until else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if isinstance(token, str) and token:
        return Issued({"token": token}, expires)
    if isinstance(certificate, str) and isinstance(key, str):
        data = {"client-certificate-data": certificate, "client-key-data": key}
        return Issued({name: base64.b64encode(pem.encode()).decode() for name, pem in data.items()}, expires)
    return None


def _refused(chosen: Kubeconfig, shown: str, what: str, cure: str) -> Refusal:
    return Refusal(Trouble.API_CREDENTIALS, f"{shown} of {chosen.user_place} {what}", cure)
