"""What this node has that leads to its API server: files, processes, variables. Read anew at each search."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from reconciler.kube.candidates import KUBELETS, SERVICE_ACCOUNT, Surroundings, kubeconfig_argument
from reconciler.kube.kubeconfig import ROOT
from reconciler.node import files

LONGEST_COMMAND = 64 << 10
PIDS = "ns/pid"


def look(environ: Mapping[str, str] = os.environ, root: Path = ROOT) -> Surroundings:
    """`root`: where the host's file system is; our own token and variables are the container's."""
    kubelets = [file for file in KUBELETS if os.path.lexists(files.below(root, str(file)))]
    return Surroundings(
        kubelets=tuple(dict.fromkeys([*kubelets, *_arguments(root / "proc", root)])),
        service_account=(SERVICE_ACCOUNT / "token").exists(),
        service_host=environ.get("KUBERNETES_SERVICE_HOST", ""),
        service_port=environ.get("KUBERNETES_SERVICE_PORT", ""),
    )


def _arguments(proc: Path, root: Path) -> Iterator[Path]:
    """Only of a process and a file that nobody but root can have made: our token goes to the server that the file
    names, and the program that it names is run by root."""
    for process in sorted(proc.glob("[0-9]*")):
        try:
            if process.stat().st_uid != 0 or os.readlink(process / PIDS) != os.readlink(proc / "1" / PIDS):
                continue
            with (process / "cmdline").open("rb") as file:
                command = file.read(LONGEST_COMMAND)
        except OSError:  # it has ended
            continue
        if b"kubelet" in command:
            found = kubeconfig_argument(command.decode("utf-8", "replace").split("\0"))
            if found is not None and files.only_root_writes(root, str(found)):
                yield found
