"""What `status.json` says of Kubernetes. The same as before where nothing has changed: each change writes the file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cni.spec import Refusal
from reconciler.kube.finder import Reaching
from reconciler.kube.objects import NETWORK_UNAVAILABLE
from reconciler.kube.others import Searched
from reconciler.kube.view import View


def trouble_of(reaching: Reaching | None, view: View) -> Refusal | None:
    """Why this node does not know now what Kubernetes knows."""
    return (reaching.refusal if reaching else None) or view.trouble


def endpoint_of(reaching: Reaching | None) -> str:
    return (reaching.endpoint if reaching else None) or ""


def summary_of(
    node: str, reaching: Reaching | None, view: View, since: float, not_told: Iterable[Refusal], searched: Searched
) -> dict[str, Any]:
    trouble = trouble_of(reaching, view)
    told = view.node.conditions.get(NETWORK_UNAVAILABLE) if view.node else None
    tried = reaching.tried if reaching else ()
    return {
        "mode": "auto",
        "node": node,
        "endpoint": endpoint_of(reaching),
        "up_to_date": trouble is None,
        "since": since,
        "trouble": _shown(trouble or next(iter(not_told), None)),
        "tried": [{"way": str(each.candidate), "trouble": _shown(each.refusal)} for each in tried],
        "condition": f"{told.status} {told.reason}" if told else "",
        "others": {
            "needed": searched.needed,
            "looked": searched.looked,
            "nodes": searched.others.nodes,
            "trouble": _shown(searched.trouble),
        },
    }


def _shown(trouble: Refusal | None) -> dict[str, Any] | None:
    return {"code": int(trouble.code), "what": trouble.msg, "cure": trouble.details} if trouble else None
