"""The client keeps its contract with the real Headscale of each generation, with real tailscaleds as nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from fixtures.mesh import VERSIONS, MeshLab
from tests.mesh.contract_headscale import CHECKS

pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]


class Real:
    def __init__(self, mesh: MeshLab) -> None:
        self.mesh = mesh
        self.generation, self.url, self.key = mesh.headscale.version, mesh.headscale.url, mesh.headscale.api_key
        self.names = tuple(node.name for node in mesh.nodes)
        self.expired_key = mesh.headscale.new_api_key()
        mesh.headscale.expire_api_key(self.expired_key)

    def announce(self, name: str, *prefixes: str) -> None:
        self.mesh.nodes[self.names.index(name)].tailscaled.announce(*prefixes)

    def approve_by_hand(self, name: str, *prefixes: str) -> None:
        self.mesh.headscale.approve(name, *prefixes)

    def revoke_by_hand(self, name: str, *prefixes: str) -> None:
        self.mesh.headscale.disapprove(name, *prefixes)

    def policy_is_a_file(self) -> bool:
        return self.mesh.headscale.policy_mode == "file"

    def packets_pass(self) -> None:
        one, two = self.mesh.nodes
        one.node.run("ping", "-n", "-c", "3", "-i", "0.3", "-W", "5", two.tailscaled.address)


@pytest.fixture(scope="module", params=VERSIONS)
def real(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with MeshLab(tmp_path_factory.mktemp("mesh"), nodes=2, version=request.param) as mesh:
        mesh.join()
        yield Real(mesh)


@pytest.mark.parametrize("check", CHECKS, ids=lambda each: each.__name__)
def test_the_real_one(real, check):
    with real.mesh.nodes[0].node.entered():
        asyncio.run(check(real))


def test_a_policy_in_a_file(tmp_path):
    from tests.mesh.contract_headscale import the_policy

    with MeshLab(tmp_path, nodes=1, policy_mode="file") as mesh, mesh.control.entered():
        asyncio.run(the_policy(Real(mesh)))
