"""Two nodes with a stand-in of tailscaled's interface between them; the test itself is inside the first."""

import pytest

from fixtures import tunnel
from fixtures.lab import Lab
from reconciler.node.host import Host


@pytest.fixture
def lab():
    with Lab(2) as running:
        tunnel.prepare(running)
        yield running


@pytest.fixture
def node(lab):
    with lab.nodes[0].entered():
        yield lab.nodes[0]


@pytest.fixture
def host(node, tmp_path):
    return Host(tmp_path)
