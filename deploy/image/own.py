"""What is ours in the image: the packages, the command, and what `headcni install` brings to the host."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from deploy.image import cache, debian
from deploy.image.contents import OURS, REPOSITORY, SITE, TRIPLETS
from deploy.image.interpreter import emulator_for, own_arch
from deploy.image.tree import File, Tree
from deploy.launcher import build as launcher

COMMAND = b"""\
#!/usr/bin/python3 -I
import sys

from reconciler.operate.cli import main

sys.exit(main())
"""
_MODULE = "github.com/containernetworking/plugins"


def sources() -> Tree:
    files = [file for package in OURS for file in (REPOSITORY / package).rglob("*") if _is_source(file)]
    packages: Tree = {f"{SITE}/{file.relative_to(REPOSITORY)}": File(file.read_bytes()) for file in files}
    return {**packages, "usr/bin/headcni": File(COMMAND, executable=True)}


def _is_source(file: Path) -> bool:
    return file.suffix == ".py" or file.name == "py.typed"


def plugin(python: str, arch: str, fresh: bool = False) -> bytes:
    """The static one, with the library of the Python that is in the image."""
    packages = debian.download([f"libpython{python}-dev"], arch, fresh)
    with tempfile.TemporaryDirectory(prefix="headcni-plugin-") as directory:
        room = Path(directory)
        for each in packages:
            subprocess.run(["dpkg-deb", "-x", each, room / "tree"], check=True)
        try:
            launcher.make(launcher.find((), compiler(arch), room / "tree", emulator_for(arch)), room / "headcni")
        except launcher.NotInstalled as why:
            raise cache.Missing(str(why)) from None
        return (room / "headcni").read_bytes()


def compiler(arch: str) -> str:
    return "gcc" if arch == own_arch() else f"{TRIPLETS[arch]}-gcc"


def loopback(version: str, arch: str) -> bytes:
    made = cache.folder(f"loopback-{version}-{arch}", lambda into: _build_loopback(version, arch, into))
    return (made / "loopback").read_bytes()


def _build_loopback(version: str, arch: str, into: Path) -> None:
    """In a module of our own: `go install` does not build for another processor into a place of our choice."""
    if shutil.which("go") is None:
        raise cache.Missing(
            "go is missing, for the plugin `loopback`: install Go 1.24 or newer, or give --loopback FILE"
        )
    into.mkdir()
    (into / "go.mod").write_text(f"module loopback\ngo 1.24\nrequire {_MODULE} v{version}\n")
    stamp = f"-s -w -X {_MODULE}/pkg/utils/buildversion.BuildVersion=v{version}"
    flags = ("-mod=mod", "-trimpath", f"-ldflags={stamp}", "-o", "loopback")
    environ = {"CGO_ENABLED": "0", "GOARCH": arch, "GOFLAGS": "-buildvcs=false", "GOTOOLCHAIN": "local"}
    subprocess.run(
        ["go", "build", *flags, f"{_MODULE}/plugins/main/loopback"], cwd=into, env=os.environ | environ, check=True
    )
