"""Nodes and Pods as an API server sends them."""

from __future__ import annotations

from typing import Any

NODE = "/api/v1/nodes/worker-1"
CIDR = "10.244.1.0/24"
NOT_READY_TAINT = {"key": "headcni.io/not-ready", "effect": "NoSchedule"}
OTHER_TAINT = {"key": "node.kubernetes.io/not-ready", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}


def node(name: str = "worker-1", **parts: Any) -> dict[str, Any]:
    annotations, taints = parts.get("annotations", {}), parts.get("taints", [])
    conditions = parts.get("conditions", [{"type": "Ready", "status": "True", "reason": "KubeletReady"}])
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-of-{name}",
            "resourceVersion": "41",
            "labels": {"kubernetes.io/hostname": name},
            "annotations": {"node.alpha.kubernetes.io/ttl": "0", **annotations},
        },
        "spec": {"podCIDR": CIDR, "podCIDRs": parts.get("cidrs", [CIDR]), "taints": taints},
        "status": {
            "conditions": conditions,
            "addresses": [
                {"type": "InternalIP", "address": "192.0.2.11"},
                {"type": "Hostname", "address": name},
            ],
            "images": [{"names": ["registry.example/pause"], "sizeBytes": 700000}],
        },
    }


def pod(name: str, uid: str = "", address: str = "", **parts: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": parts.get("namespace", "default"),
            "name": name,
            "uid": uid or f"uid-of-{name}",
            "labels": parts.get("labels", {"app": "web"}),
            "annotations": parts.get("annotations", {}),
        },
        "spec": {"nodeName": parts.get("on", "worker-1"), "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": parts.get("phase", "Running"), "podIPs": [{"ip": address}] if address else []},
    }
