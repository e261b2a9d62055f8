"""`headcni mesh dns`: how pods resolve the names of the tailnet, and what hinders it.

A container runtime ignores the `dns` of a CNI result: pods ask the server that the kubelet writes into their
resolv.conf, which is CoreDNS. So it is CoreDNS that must know the tailnet's zone. It asks 100.100.100.100, the resolver
inside tailscaled of its own node, which answers pods whether or not the node itself uses it (accept-dns).
"""

from __future__ import annotations

from argparse import Namespace

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import View
from reconciler.operate.mesh import last_view, told
from reconciler.operate.output import emit, fields
from reconciler.operate.statedir import StateDir

RESOLVERS = {4: "100.100.100.100", 6: "fd7a:115c:a1e0::53"}
ADD_BLOCK = """\
headcni mesh dns -o json | jq -r .corefile > zone
kubectl -n kube-system get configmap coredns -o json \\
  | jq --rawfile zone zone '.data.Corefile += $zone' | kubectl replace -f -"""


def dns(args: Namespace, state: StateDir, now: float) -> int | Refusal:
    last = last_view(state, now)
    if isinstance(last, Refusal):
        return last
    view, zone = last.view, suffix(last.view)
    if not zone:
        cure = "join the node first; in Headscale, dns.base_domain names it"
        return Refusal(Trouble.DNS, "the tailnet's domain is not known here", cure)
    troubles = hindrances(view)
    if args.output in ("json", "yaml"):
        data = {
            "suffix": zone,
            "magic_dns": view.magic_enabled,
            "accept_dns": view.accepts_dns,
            "corefile": corefile(view),
            "configmap": configmap(view),
            "needs": needs(view),
            "wrong": [{"code": int(each.code), "what": each.msg, "cure": each.details} for each in troubles],
        }
        emit(data, args.output)
    else:
        print(page(view, last.as_of, troubles))
    return 1 if troubles else 0


def suffix(view: View) -> str:
    return view.magic_suffix.strip(".")


def resolver(view: View) -> str:
    """The one that every pod of this node reaches."""
    versions = {chain.prefix.version for chain in view.chains} or {4}
    return RESOLVERS[min(versions)]


def corefile(view: View) -> str:
    return f"{suffix(view)}:53 {{\n    errors\n    cache 30\n    forward . {resolver(view)}\n}}\n"


def configmap(view: View) -> str:
    """For distributions whose CoreDNS imports further server blocks, as k3s does."""
    block = "".join(f"    {line}\n" for line in corefile(view).splitlines())
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: coredns-custom\n  namespace: kube-system\n"
    return f"{head}data:\n  tailnet.server: |\n{block}"


def needs(view: View) -> list[str]:
    return [
        f"tailscaled on each node where CoreDNS may run: it answers at {resolver(view)}, UDP and TCP port 53,"
        " through the mesh interface of that same node",
        "forwarding (net.ipv4.ip_forward; the daemon sets it)",
        "where the FORWARD policy is DROP: tailscaled's netfilter mode on, or a rule that lets pods reach that address",
        "a NetworkPolicy, if CoreDNS has one, that lets it out to that address",
    ]


def hindrances(view: View) -> list[Refusal]:
    found = [each.trouble for each in view.findings if each.trouble.code in (Trouble.DNS, Trouble.FILTER)]
    if view.accepts_dns and not view.magic_enabled and not any(each.code == Trouble.DNS for each in found):
        what = (
            "accept-dns is on, but MagicDNS is off in Headscale: the node's resolv.conf is left without a name server"
        )
        cure = "`tailscale set --accept-dns=false` (tailscale.acceptDns: false), or dns.magic_dns: true in Headscale"
        found.append(Refusal(Trouble.DNS, what, cure))
    return found


def page(view: View, as_of: str, troubles: list[Refusal]) -> str:
    magic = "on" if view.magic_enabled else "off in Headscale: full names are answered, short ones are not"
    accept = "on: tailscaled writes this node's resolv.conf" if view.accepts_dns else "off, and not needed for pods"
    pairs = [
        ("as of", as_of),
        ("domain", suffix(view)),
        ("MagicDNS", magic),
        ("accept-dns", accept),
        ("wrong", "\n".join(map(told, troubles))),
    ]
    return "\n".join(
        [
            fields([(name, value) for name, value in pairs if value]),
            "\nContainer runtimes ignore the `dns` of a CNI result: pods ask CoreDNS. Add to its Corefile\n",
            corefile(view),
            "as with kubeadm:\n",
            ADD_BLOCK,
            "\nor, where CoreDNS imports custom server blocks (k3s), apply\n",
            configmap(view),
            "It needs",
            *[f"- {each}" for each in needs(view)],
            "\nAnswers live 5 s. As long as accept-dns is off, an unknown name is SERVFAIL.",
        ]
    )
