"""Which files this version writes, so that an older one can tell what it will not be able to read."""

from __future__ import annotations

from collections.abc import Iterator

from cni.spec import Refusal
from reconciler.install.codes import Trouble
from reconciler.install.record import InstallRecord
from reconciler.mesh import record as mesh
from reconciler.node import remembered, sysctl
from statemachine import attachment, intent

_NAMES = (attachment.FORMAT, intent.FORMAT, sysctl.FORMAT, mesh.FORMAT, remembered.FORMAT)
FORMATS = {name: int(version) for name, version in (each.split("/")[1:] for each in _NAMES)}


def unreadable(installed: InstallRecord) -> Iterator[Refusal]:
    """Pure. By a daemon of this version, of what the one that was installed before wrote."""
    for name, version in sorted(installed.formats.items()):
        known = FORMATS.get(name)
        if known is None or version > known:
            reads = f"reads up to {known}" if known else "does not know it"
            what = f"version {installed.version} wrote files of format headcni/{name}/{version}; this version {reads}"
            cure = "its daemon leaves them alone and says which: do not delete them; the newer version reads them"
            yield Refusal(Trouble.DOWNGRADE, what, cure)
