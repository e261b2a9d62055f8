"""An image as one archive, in the OCI's image layout: what `ctr images import`, `podman load` and others take."""

from __future__ import annotations

import gzip
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from deploy.image.tree import File, Tree, as_tar

_TYPE = "application/vnd.oci.image"
NAME = "io.containerd.image.name"  # containerd's own annotation; the OCI's has room for the tag alone
TAG = "org.opencontainers.image.ref.name"


def archive(layers: Sequence[bytes], config: Mapping[str, Any], arch: str, name: str, created: int | None) -> bytes:
    tree: Tree = {"oci-layout": File(_encoded({"imageLayoutVersion": "1.0.0"}))}

    def blob(kind: str, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        tree[f"blobs/sha256/{digest}"] = File(content)
        return {"mediaType": f"{_TYPE}.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    described = {
        **({"created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created))} if created is not None else {}),
        "architecture": arch,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [_diff_id(each) for each in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_TYPE}.manifest.v1+json",
        "config": blob("config.v1+json", _encoded(described)),
        "layers": [blob("layer.v1.tar+gzip", each) for each in layers],
    }
    listed = blob("manifest.v1+json", _encoded(manifest))
    listed["platform"] = {"architecture": arch, "os": "linux"}
    listed["annotations"] = {NAME: name, TAG: name.rpartition(":")[2]}
    index = {"schemaVersion": 2, "mediaType": f"{_TYPE}.index.v1+json", "manifests": [listed]}
    tree["index.json"] = File(_encoded(index))
    return as_tar(tree)


def _diff_id(layer: bytes) -> str:
    return f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}"


def _encoded(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True).encode()
