"""`python -m deploy.manifests`: renders the chart's defaults, for who does not want Helm. A test holds them equal.

`headcni.yaml` is the chart in kube-system without its hooks. `headcni-uninstall.yaml` is the hook of `helm uninstall`,
as a Job to be applied by hand: `kubectl delete` alone would leave the nodes as they are, and no node has a command of
its own to undo that.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from fixtures.peers import find

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).with_name("headcni.yaml")
LEAVE = Path(__file__).with_name("headcni-uninstall.yaml")
HEAD = """\
# HeadCNI without Helm: kubectl apply -f headcni.yaml. Printed by `python -m deploy.manifests` from the chart, with
# its defaults: for a cluster made by kubeadm, without a mesh. With other values:
#   helm template headcni deploy/chart/headcni --namespace kube-system --no-hooks --values VALUES.yaml
# To leave, see headcni-uninstall.yaml, before anything is deleted.
"""
LEAVE_HEAD = """\
# Puts every node back as it was before headcni.yaml. Printed by `python -m deploy.manifests`. Once the pods are gone:
#   kubectl apply -f headcni-uninstall.yaml
#   kubectl -n kube-system wait --for=condition=complete --timeout=270s job/headcni-uninstall
#   kubectl -n kube-system logs job/headcni-uninstall
#   kubectl delete -f headcni-uninstall.yaml -f headcni.yaml
# To cut off pods that are left, before: kubectl -n kube-system annotate daemonset headcni headcni.io/purge=true
# If it refuses, the daemons come back, and its log says why; delete the Job to repeat it. With other values:
#   helm template headcni deploy/chart/headcni --namespace kube-system --values VALUES.yaml \\
#     --set uninstall.hook=always --show-only templates/hooks.yaml --show-only templates/uninstall.yaml
"""
ONLY_HOOKS = (
    *("--set", "uninstall.hook=always"),
    *("--show-only", "templates/hooks.yaml", "--show-only", "templates/uninstall.yaml"),
)


def made() -> dict[Path, str]:
    return {FILE: HEAD + _rendered("--no-hooks", "--skip-tests"), LEAVE: LEAVE_HEAD + _rendered(*ONLY_HOOKS)}


def _rendered(*which: str) -> str:
    always = ("template", "headcni", "deploy/chart/headcni", "--namespace", "kube-system")
    done = subprocess.run((find("helm"), *always, *which), cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.replace("app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kubectl")


if __name__ == "__main__":
    for file, text in made().items():
        file.write_text(text)
