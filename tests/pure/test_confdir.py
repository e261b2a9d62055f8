"""The daemon and the doctor look for other networks where the runtime does: in `cni.confDir`."""

from __future__ import annotations

from types import SimpleNamespace

import orjson
import pytest
from configured import loaded

from reconciler.kube.codes import Trouble
from reconciler.node import lookout, neighbours
from reconciler.node.clash import ranges
from reconciler.node.ruleset import Chains
from reconciler.operate.doctor import neighbours as examination

NOBODY = ranges([], [], [], False, [])


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A host with Calico's network in a directory of its own, and none of ours."""
    monkeypatch.setattr(neighbours.ruleset, "chains", lambda: Chains(()))
    directory = tmp_path / "srv/net.d"
    directory.mkdir(parents=True)
    (directory / "05-calico.conflist").write_bytes(orjson.dumps({"name": "c", "plugins": [{"type": "calico"}]}))
    return tmp_path


def rivals(codes):
    return [code for code in codes if code == Trouble.OTHER_CNI]


@pytest.mark.parametrize(("conf_dir", "seen"), [("/srv/net.d", 1), ("/etc/cni/net.d", 0)])
def test_the_daemon_looks_there(root, conf_dir, seen):
    assert len(rivals(each.code for each in lookout.hindrances(NOBODY, root, conf_dir))) == seen


@pytest.mark.parametrize(("conf_dir", "seen"), [("/srv/net.d", 1), ("/etc/cni/net.d", 0)])
def test_the_doctor_looks_there(root, conf_dir, seen):
    config = loaded({"cni.confDir": conf_dir, "node.root": str(root)})
    found = examination.examine(SimpleNamespace(config=config, ranges=lambda: NOBODY))
    assert len(rivals(each.code for each in found.complaints)) == seen
