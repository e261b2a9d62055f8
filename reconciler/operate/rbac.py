"""`headcni rbac`: what Kubernetes must permit, as manifests for `kubectl apply -f -`.

It is printed from the one list that the daemon's requests and `headcni doctor --online` go by.
"""

from __future__ import annotations

from argparse import Namespace

from reconciler.kube.rbac import Role, manifests


def rbac(args: Namespace) -> int:
    import yaml  # the other verbs do without

    for role in Role:
        names = {"name": role.value, "namespace": args.namespace}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": names}
        made = [account, *manifests(role, args.namespace)]
        print(yaml.safe_dump_all(made, sort_keys=False, explicit_start=True), end="")
    return 0
