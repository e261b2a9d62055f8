"""A node for each module, a daemon with a runtime on it for each test; a module that needs another makes its own."""

import pytest

from fixtures.lab import Lab
from fixtures.site import Site


@pytest.fixture(scope="module")
def node():
    with Lab(1) as lab:
        yield lab.nodes[0]


@pytest.fixture
def site(node, tmp_path):
    with Site(node, tmp_path / "state") as running:
        yield running
