"""A CPython that can be written to a file: linked with musl, and with every byte of its memory from malloc.

musl because it starts anew over old data without harm, chooses no code by the processor it first ran on (so an image
runs on any), and keeps nothing behind the program's back. Without pymalloc no memory comes from mmap.

The source is the distribution's own, of the version of its python3, whose compiler makes the plugin's code. It is
fetched by apt, with lists of its own: nobody has to change the machine's sources. It is the upstream archive, without
Debian's patches; of the library, the plugin has errno, fcntl, posix, select and time. It is built once, in about
two minutes, and kept in the cache.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from zlib import crc32

from deploy.launcher.build import Broken, NotInstalled, Toolchain
from deploy.plugin_file import Unsuitable, examine

PYTHON = "/usr/bin/python3"
NEEDED = {"musl-gcc": "musl-tools", "gcc": "gcc", "make": "make", "apt-get": "apt", "tar": "tar"}
"""With the package of each. musl-gcc is a script that runs gcc, which its package does not bring."""
CONFIGURE = (
    "--quiet",
    "--without-pymalloc",
    "--without-doc-strings",
    "--disable-ipv6",
    "--disable-test-modules",
    "--without-ensurepip",
    "--disable-shared",
)
MODULES = "*static*\nselect selectmodule.c\nfcntl fcntlmodule.c\n"
# Debian's gcc under musl-gcc calls the machine by glibc's name, which CPython's configure does not believe.
COMPILER = '#!/bin/sh\n[ "$1" = --print-multiarch ] && exit\nexec musl-gcc "$@"\n'


def place(version: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    recipe = crc32(repr((CONFIGURE, MODULES)).encode())
    return cache / "headcni" / "memory-image" / f"python-{version}-{recipe:08x}"


def find() -> Toolchain:
    """Only what was built before."""
    version, short = _version()
    kept = place(version)
    if not (kept / f"libpython{short}.a").is_file():
        raise NotInstalled(f"no CPython {version} for images is in {kept}: make build FORM=image makes one")
    if shutil.which("musl-gcc") is None:
        raise NotInstalled("musl-gcc is missing: apt-get install musl-tools")
    return Toolchain(PYTHON, short, kept / f"libpython{short}.a", (kept / "Include", kept), "musl-gcc")


def find_or_build() -> Toolchain:
    try:
        return find()
    except NotInstalled:
        _build()
    return find()


def _build() -> None:
    for tool, package in NEEDED.items():
        if shutil.which(tool) is None:
            raise NotInstalled(f"{tool} is missing: apt-get install {package}")
    version, short = _version()
    place(version).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place(version).parent) as directory:
        room = Path(directory)
        archive = _fetch(f"python{short}", version, room)
        source, made = room / "source", room / "made"
        for each in (source, made / "Modules"):
            each.mkdir(parents=True)
        _run(room, "tar", "--extract", "--strip-components=1", "--directory", source, "--file", archive)
        (made / "Modules" / "Setup.local").write_text(MODULES)
        compiler = room / "cc"
        compiler.write_text(COMPILER)
        compiler.chmod(0o755)
        _run(made, source / "configure", *CONFIGURE, f"CC={compiler}", "LDFLAGS=-static", "LINKFORSHARED= ")
        _run(made, "make", f"-j{os.cpu_count()}", f"libpython{short}.a")
        kept = room / "kept"
        shutil.copytree(source / "Include", kept / "Include")
        for name in ("pyconfig.h", f"libpython{short}.a"):
            shutil.copy(made / name, kept)
        kept.rename(place(version))


def _version() -> tuple[str, str]:
    try:
        version = "{}.{}.{}".format(*examine(PYTHON).version)
    except Unsuitable as why:
        raise NotInstalled(str(why)) from None
    return version, version.rpartition(".")[0]


def _fetch(package: str, version: str, room: Path) -> Path:
    """The upstream archive of a source package, whose digest is in the distribution's signed lists."""
    lists = room / "apt"
    for each in ("state/lists/partial", "cache/archives/partial"):
        (lists / each).mkdir(parents=True)
    apt = Path("/etc/apt")
    for found in (apt / "sources.list", *apt.glob("sources.list.d/*.list"), *apt.glob("sources.list.d/*.sources")):
        if found.is_file():
            lines = re.sub(r"(?m)^deb(?=\s)", "deb-src", found.read_text())
            (lists / found.name).write_text(re.sub(r"(?m)^Types:.*", "Types: deb-src", lines))
    places = {"Dir::State": lists / "state", "Dir::Cache": lists / "cache", "Dir::Etc::sourceparts": lists}
    options = [f"-o{name}={value}" for name, value in {**places, "Dir::Etc::sourcelist": "/dev/null"}.items()]
    _run(room, "apt-get", "-qq", *options, "update")
    _run(room, "apt-get", "-qq", *options, "--download-only", "--tar-only", "source", package)
    archive = next(room.glob(f"*_{version}.orig.tar.?z"), None)
    if archive is None:
        raise NotInstalled(f"apt's sources have another {package} than {version}: upgrade it")
    return archive


def _run(where: Path, *command: str | Path) -> None:
    """With a fixed date: CPython tells when it was compiled."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0"}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = "\n".join(done.stderr.splitlines()[-5:])
        kind = NotInstalled if command[0] == "apt-get" else Broken
        raise kind(f"{command[0]} failed with {done.returncode}:\n{words}")
