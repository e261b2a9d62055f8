"""A node whose daemon left a view of the mesh, and the command run on it."""

from __future__ import annotations

import types
from dataclasses import replace

import orjson
from samples import BORN, STATUS, in_state
from test_cli import Node

from reconciler.mesh.viewfile import encode_view, summary
from reconciler.operate import mesh_why
from reconciler.operate.status import encode_status
from statemachine.attachment import State

NOW = BORN + 7200
WEB0 = in_state(State.ADVERTISED)  # 10.244.1.7 and fd00:244:1::7, hcni5d41402abc4b
OTHER = "10.244.2.7"


class MeshNode(Node):
    def see(self, view):
        mesh = {"mode": "tailscale", "static_routes": [], "cluster_cidrs": ["10.244.0.0/16", "fd00:244::/32"]}
        cidrs = ("10.244.1.0/24", "fd00:244:1::/64")
        status = replace(STATUS, ready=True, not_ready=(), warnings=(), pod_cidrs=cidrs, mesh=mesh | summary(view))
        self.write("status.json", encode_status(status))
        self.write("mesh-view.json", encode_view(view))

    def mesh(self, *argv):
        return self.run("mesh", *argv)

    def steps(self, query):
        """What is not all right on the way, by its name."""
        code, out, _ = self.mesh("why", query, "-o", "json")
        steps = [step for walk in orjson.loads(out)["walks"] for step in walk["steps"]]
        assert code == (0 if all(step["holds"] == "yes" for step in steps) else 1)
        return {step["link"]: step["holds"] for step in steps if step["holds"] != "yes"}


def mesh_node(root, capsys, monkeypatch):
    """Time stands still, and what this machine's kernel says is left out."""
    monkeypatch.setattr("reconciler.operate.cli.time", types.SimpleNamespace(time=lambda: NOW))
    monkeypatch.setattr(mesh_why, "kernel_way", lambda address: None)
    node = MeshNode(root, capsys)
    (root / "tmp").mkdir()
    return node
