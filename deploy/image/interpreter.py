"""The Python of the image, unpacked somewhere, for compiling what will run on it.

Its own loader and libraries start it, so neither this machine's Python nor its C library matters, and where there is an
emulator not even its processor. A .pyc holds a digest of its source that nobody compares (PEP 552): no time gets into
it, and programs whose files cannot be written start at once. One process compiles all, in one order, with one seed for
hashes; beside the sources, nothing else is in the bytes.
"""

from __future__ import annotations

import marshal
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deploy.image.cache import Missing
from deploy.image.contents import TRIPLETS
from deploy.image.tree import Entry, File, Tree, write_out

EMULATORS = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static"}
_OWN = {"x86_64": "amd64", "aarch64": "arm64"}

_PROGRAM = """
import importlib.util as u, marshal, sys
made = {}
for name, source in sorted(marshal.load(sys.stdin.buffer).items()):
    code = compile(source, '/' + name, 'exec', dont_inherit=True)
    made[name] = u.MAGIC_NUMBER + b'\\1\\0\\0\\0' + u.source_hash(source) + marshal.dumps(code)
marshal.dump(made, sys.stdout.buffer)
"""


def own_arch() -> str:
    return _OWN.get(platform.machine(), platform.machine())


def emulator_for(arch: str) -> str:
    """Empty for this machine's own."""
    if arch == own_arch():
        return ""
    if shutil.which(EMULATORS[arch]) is None:
        raise Missing(f"{EMULATORS[arch]} is missing: apt-get install qemu-user-static")
    return EMULATORS[arch]


@dataclass(frozen=True, slots=True)
class Interpreter:
    root: Path
    version: str
    arch: str

    def compile(self, tree: Mapping[str, Entry]) -> Tree:
        """For each source its byte code, under the name where Python looks for it."""
        sources = {name: each.content for name, each in tree.items() if name.endswith(".py") and isinstance(each, File)}
        done = subprocess.run(
            [*self._command(), "-s", "-S", "-P", "-Wignore", "-c", _PROGRAM],
            env={"PYTHONHOME": str(self.root / "usr"), "PYTHONHASHSEED": "0"},
            input=marshal.dumps(sources),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"the image's Python does not compile: {done.stderr.decode()}")
        return {self.compiled_name(name): File(code) for name, code in marshal.loads(done.stdout).items()}

    def compiled_name(self, name: str) -> str:
        path = PurePosixPath(name)
        return str(path.parent / "__pycache__" / f"{path.stem}.cpython-{self.version.replace('.', '')}.pyc")

    def _command(self) -> list[str]:
        libraries = self.root / "usr/lib" / TRIPLETS[self.arch]
        (loader,) = libraries.glob("ld-linux-*.so.*")
        emulated = [emulator] if (emulator := emulator_for(self.arch)) else []
        return [*emulated, str(loader), "--library-path", str(libraries), f"{self.root}/usr/bin/python{self.version}"]


@contextmanager
def unpacked(base: Mapping[str, Entry], version: str, arch: str) -> Iterator[Interpreter]:
    with tempfile.TemporaryDirectory(prefix="headcni-image-") as directory:
        write_out(base, Path(directory))
        yield Interpreter(Path(directory), version, arch)
