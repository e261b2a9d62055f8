"""Python packages: wheels by pip, of the versions of constraints.txt, unpacked as they are.

Nothing is built, and no pip gets into the image. `--platform` and `--python-version` let it fetch for another
processor and another Python than the one it runs in.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from deploy.image import cache
from deploy.image.contents import CONSTRAINTS, SITE, Contents
from deploy.image.tree import File, Tree, matches

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
LIBC = ("manylinux2014", *(f"manylinux_2_{minor}" for minor in range(18, 37)))  # what Debian's is good for


def download(requirements: Sequence[str], python: str, arch: str, fresh: bool = False) -> list[Path]:
    constraints = CONSTRAINTS.read_text()
    name = f"wheels-{arch}-{cache.digest(python, constraints, *requirements)[:16]}"
    return sorted(cache.folder(name, lambda into: _download(requirements, python, arch, into), fresh).glob("*.whl"))


def _download(requirements: Sequence[str], python: str, arch: str, into: Path) -> None:
    version = python.replace(".", "")
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    command += [f"--abi={each}" for each in (f"cp{version}", "abi3", "none")]
    command += [f"--platform={libc}_{MACHINES[arch]}" for libc in LIBC]
    done = subprocess.run([*command, f"--constraint={CONSTRAINTS}", f"--dest={into}", *requirements], check=False)
    if done.returncode:
        raise cache.Missing("pip did not download the wheels; it must be there: apt-get install python3-pip")


def unpacked(wheels: Sequence[Path], wanted: Contents) -> Tree:
    tree: Tree = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if ".data/" in name:
                    raise NotImplementedError(f"{wheel.name} has {name}, which belongs elsewhere")
                if not name.endswith("/"):
                    tree[f"{SITE}/{name}"] = File(archive.read(name))
    return {name: entry for name, entry in tree.items() if not matches(name, wanted.drop)}
