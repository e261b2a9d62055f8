"""Files of Debian packages, by apt and dpkg-deb: nothing is installed, no script of theirs runs, nobody must be root.

apt has an own state below our cache, so that it also fetches for another processor; its sources and its keys are this
machine's, which therefore must be Debian bookworm's. What maintainer scripts would do is in `generated()`.

Rejected: mmdebstrap and debootstrap. They bring dpkg, tar and more that nothing here runs, and must be root, or in a
user namespace, to write files whose owners we then write into an archive ourselves.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.image import cache
from deploy.image.contents import Contents
from deploy.image.tree import Entry, File, Folder, Link, Tree, matches, of_tar

PASSWD = "root:x:0:0:root:/:/sbin/nologin\nheadcni:x:65532:65532:HeadCNI:/:/sbin/nologin\n"
GROUP = "root:x:0:\nheadcni:x:65532:\n"
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"
_SETTINGS = """\
APT {{ Architecture "{arch}"; Architectures {{ "{arch}"; }}; Sandbox::User "root"; }};
Dir {{ State::Lists "{state}/lists"; State::status "{state}/status"; Cache "{state}"; }};
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
"""  # the user that apt would become may not write here; and what this machine does after an update is not meant for us
_MERGED = ("bin", "lib", "lib64", "sbin")


def download(packages: Sequence[str], arch: str, fresh: bool = False) -> list[Path]:
    if missing := [each for each in ("apt-get", "dpkg-deb") if shutil.which(each) is None]:
        raise cache.Missing(f"{', '.join(missing)} is missing: build on Debian bookworm, or with the Dockerfile")
    name = f"packages-{arch}-{cache.digest(*packages)[:16]}"
    return sorted(cache.folder(name, lambda into: _download(packages, arch, into), fresh).glob("*.deb"))


def _download(packages: Sequence[str], arch: str, into: Path) -> None:
    into.mkdir()
    state = into.parent
    for each in ("lists/partial", "archives/partial"):
        (state / each).mkdir(parents=True)
    (state / "status").touch()
    settings = state / "apt.conf"
    settings.write_text(_SETTINGS.format(arch=arch, state=state))
    environ = os.environ | {"LC_ALL": "C"}
    subprocess.run(["apt-get", "-qq", "-c", settings, "update"], env=environ, check=True)
    done = subprocess.run(["apt-get", "-qq", "-c", settings, "download", *packages], cwd=into, env=environ, check=False)
    if done.returncode:
        raise cache.Missing(f"apt has not all packages for {arch}: its sources must be Debian bookworm's")


def unpacked(archives: Sequence[Path], wanted: Contents) -> Tree:
    tree: Tree = {}
    for archive in archives:
        files = subprocess.run(["dpkg-deb", "--fsys-tarfile", archive], capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(files)) as tar:
            tree |= of_tar(tar, _merged)
    return {
        name: entry for name, entry in tree.items() if matches(name, wanted.keep) and not matches(name, wanted.drop)
    }


def _merged(name: str) -> str:
    return f"usr/{name}" if name.split("/")[0] in _MERGED else name


def described(archives: Sequence[Path]) -> Entry:
    """As dpkg keeps it: programs that look for known flaws read it."""
    told = []
    for archive in archives:
        fields = subprocess.run(["dpkg-deb", "--field", archive], capture_output=True, text=True, check=True).stdout
        first, rest = fields.split("\n", 1)
        told.append(f"{first}\nStatus: install ok installed\n{rest}")
    return File("\n".join(told).encode())


def generated(tree: Mapping[str, Entry], wanted: Contents) -> Tree:
    """What no package holds."""
    authorities = sorted(name for name in tree if name.startswith("usr/share/ca-certificates/"))
    certificates = [entry.content for name in authorities if isinstance(entry := tree[name], File)]
    return {
        **{name: Link(f"usr/{name}") for name in _MERGED},
        **{name: Folder() for name in wanted.folders},
        "etc/passwd": File(PASSWD.encode()),
        "etc/group": File(GROUP.encode()),
        "etc/nsswitch.conf": File(b"hosts: files dns\n"),
        AUTHORITIES: File(b"".join(certificates)),
        "tmp": Folder(0o1777),
        "usr/bin/python3": Link(f"python{wanted.python}"),
        "usr/lib/ssl/cert.pem": Link(f"/{AUTHORITIES}"),
        "var/run": Link("/run"),
    }
