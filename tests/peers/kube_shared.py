"""A real API server for each module that names this as its pytest plugin; a node and its daemon for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubecluster import Cluster
from kubesite import KUBELET, OWN, UP, KubeSite
from traffic import busy


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("kube")) as made:
        yield made


@pytest.fixture
def worker_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Below which the node's files are: a kubelet's says the pod CIDR, and nobody else says anything."""
    root = tmp_path / "host"
    (root / KUBELET).parent.mkdir(parents=True)
    (root / KUBELET).write_text(f"kind: KubeletConfiguration\npodCIDR: {OWN}\n")
    monkeypatch.setenv("HEADCNI_HOST_ROOT", str(root))
    for variable in ("NODE_POD_CIDR", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(variable, raising=False)
    return root


@pytest.fixture
def worker(kube: Cluster, worker_files: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[KubeSite]:
    """Its Node is there, with the start-up taint; the daemon is not started yet."""
    name = str(request.node.name).removeprefix("test_").replace("_", "-")[:60].strip("-")
    kube.add_node(name)
    site = KubeSite(kube, name, tmp_path / "state")
    yield site
    site.__exit__(None, None, None)
    kube.delete_node(name)


@pytest.fixture
def busy_worker(worker: KubeSite) -> Iterator[KubeSite]:
    """Its daemon runs, the Node says so, and pods start and end the whole time."""
    worker.run_daemon()
    with busy(worker):
        worker.soon_tells(UP)
        yield worker
