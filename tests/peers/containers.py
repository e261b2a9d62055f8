"""HeadCNI's image, and containers of it: run by runc as the kubelet has them run, from the real chart's rights."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import pytest

from deploy.image import build, layers
from deploy.image.cache import Missing
from deploy.image.interpreter import own_arch
from deploy.image.layers import Layers
from fixtures.lab import Netns
from fixtures.peers import find

DAEMON = ("CAP_NET_ADMIN", "CAP_SYS_ADMIN")
TMPFS = {"type": "tmpfs", "source": "tmpfs"}


@cache
def made_layers() -> Layers:
    """What was downloaded and compiled once is on the disk; what is ours is made anew, once in a session."""
    try:
        return layers.make(own_arch(), find("plugins", "loopback"))
    except Missing as why:
        _cannot_run(str(why))


def _cannot_run(why: str) -> NoReturn:
    required = os.environ.get("CI") == "true" or os.environ.get("HEADCNI_REQUIRE_PEERS") == "1"
    (pytest.fail if required else pytest.skip)(f"the image cannot be built here: {why}")


class Archive:
    """An image as OCI has it, read as a runtime reads it."""

    def __init__(self, content: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            self.files = {each.name: tar.extractfile(each).read() for each in tar if each.isfile()}  # type: ignore[union-attr]
        (self.listed,) = json.loads(self.files["index.json"])["manifests"]
        self.manifest = json.loads(self.blob(self.listed))
        self.document = json.loads(self.blob(self.manifest["config"]))
        self.config: dict[str, Any] = self.document["config"]

    def blob(self, descriptor: Mapping[str, Any]) -> bytes:
        return self.files["blobs/" + descriptor["digest"].replace(":", "/")]

    def unpack(self, root: Path) -> None:
        root.mkdir()
        for each in self.manifest["layers"]:
            with tarfile.open(fileobj=io.BytesIO(self.blob(each))) as layer:
                layer.extraction_filter = lambda member, _: member  # Debian's 3.11.2 knows no `filter`, and needs none
                layer.extractall(root)


@dataclass(frozen=True)
class Image:
    archive: Archive
    root: Path

    @classmethod
    def of(cls, made: Layers, folder: Path) -> Image:
        image = cls(Archive(build.packed(made, own_arch())), folder / "root")
        image.archive.unpack(image.root)
        return image


class Container:
    """One container of the image, on a node's network; its first process gets `arguments`."""

    def __init__(
        self,
        image: Image,
        node: Netns,
        folder: Path,
        *arguments: str,
        capabilities: Sequence[str] = (),
        user: int = 0,
        mounts: Mapping[str, Path] = {},
        environment: Mapping[str, str] = {},
        command: Sequence[str] = (),
    ) -> None:
        folder.mkdir()
        self._folder = folder
        self._runc = (str(find("runc")), "--root", str(folder / "runc"))
        config = image.archive.config
        document = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user, "gid": user},
                "args": [*(command or config["Entrypoint"]), *arguments],
                "env": [*config["Env"], *(f"{key}={value}" for key, value in environment.items())],
                "cwd": "/",
                "capabilities": {each: list(capabilities) for each in ("bounding", "effective", "permitted")},
                "noNewPrivileges": True,
            },
            "root": {"path": str(image.root), "readonly": True},
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", **TMPFS, "options": ["nosuid", "mode=755"]},
                {"destination": "/tmp", **TMPFS},
                *({"destination": at, "type": "bind", "source": str(what), "options": ["rbind", "rslave"]}
                  for at, what in mounts.items()),
            ],
            "linux": {
                "namespaces": [{"type": each} for each in ("mount", "pid", "ipc")]
                + [{"type": "network", "path": node.path}],
                "readonlyPaths": ["/proc/sys"],
            },
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(document))
        self._process: subprocess.Popen[bytes] | None = None

    def run(self) -> subprocess.CompletedProcess[str]:
        """To its end."""
        try:
            return subprocess.run(self._run(), capture_output=True, text=True, timeout=60, check=False)
        finally:
            self._delete()

    def __enter__(self) -> Container:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(self._run(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process
        self._process.kill()  # then runc itself cannot clean up
        self._process.wait()
        self._delete()

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """With the rights of its first process."""
        whole = (*self._runc, "exec", "it", *command)
        return subprocess.run(whole, capture_output=True, text=True, timeout=60, check=False)

    def stop(self) -> int:
        """As the kubelet stops it; the exit code."""
        assert self._process
        subprocess.run((*self._runc, "kill", "it", "TERM"), check=True)
        return self._process.wait(20)

    def log(self) -> str:
        return (self._folder / "log").read_text()

    def _delete(self) -> None:
        """Nothing, where it ended by itself."""
        subprocess.run((*self._runc, "delete", "--force", "it"), check=True)

    def _run(self) -> tuple[str, ...]:
        return (*self._runc, "run", "--bundle", str(self._folder), "it")
