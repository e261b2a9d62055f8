"""The operator's command, `headcni`: parses the arguments and imports what the verb needs, and no more.

Whatever only reads works from the files alone, with the daemon up or down, takes no lock and never writes. Exit
codes: 0 done, 1 it could not be done (standard error says why, and the cure), 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from argparse import SUPPRESS, ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reconciler.operate.output import FORMATS
from reconciler.settings import BY_KEY, SETTINGS, Setting, real_path

if TYPE_CHECKING:
    from cni.spec import Refusal

STATE_DIR = BY_KEY["stateDir"]
QUERY = "pod (name or namespace/name), container id or its beginning, or IP address"


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        outcome = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # `headcni history | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(outcome, int):
        return outcome
    print(f"headcni: {outcome.msg}\n{outcome.details}", file=sys.stderr)
    return 1


def build_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="headcni", description="Look at, and run, HeadCNI on this node.")
    _common(parser, FORMATS, None, "table")
    verbs = parser.add_subparsers(metavar="VERB", required=True)

    def verb(
        name: str, run: Callable[[Namespace], Any], help: str, formats: tuple[str, ...] = FORMATS
    ) -> ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help)
        _common(sub, formats, SUPPRESS, SUPPRESS)  # so that they may follow the verb, too
        sub.set_defaults(run=run)
        return sub

    verb("status", _reading("overview", "status"), "is this node ready, and if not, why (exit code 1)")
    verb("pods", _reading("pods", "pods"), "every attachment: address, state, what hinders it")
    show = verb("show", _reading("pods", "show"), "everything about one, with each transition")
    show.add_argument("query", metavar="POD|CONTAINER|IP", help=QUERY)
    history = verb("history", _reading("pods", "history"), "who held which address, from when to when")
    history.add_argument("query", nargs="?", metavar="POD|CONTAINER|IP", help=QUERY)
    history.add_argument("--at", metavar="TIME", help="who held it then: 03:12, or 2026-11-21T03:12")
    replay = verb("replay", _reading("rehearse", "replay"), "what a daemon would do that starts on a copied directory")
    replay.add_argument("state_dir", metavar="DIR", help="the copy of a state directory")
    replay.add_argument(
        "--boot-id",
        choices=("same", "other"),
        default="same",
        help="whether the node has not, or has, rebooted since",
    )
    meaning = "the states of an attachment, and what leads from one to another"
    verb("states", _plain("states", "states"), meaning, (*FORMATS, "mermaid", "dot"))
    config = verb("config", _plain("configure", "config"), "the value of every setting, and where it comes from")
    _settings_flags(config)
    check = config.add_subparsers(metavar="").add_parser("check", help="is FILE a valid configuration")
    check.add_argument("file", metavar="FILE")
    check.set_defaults(run=_plain("configure", "check"))
    meaning = "this node's pod CIDR, and what each source says of it; exit code 1 if it is only a guess"
    _settings_flags(verb("podcidr", _plain("podcidr", "podcidr"), meaning))
    meaning = "everything that is wrong with this node, worst first, each with its cure (exit code 1)"
    doctor = verb("doctor", _plain("doctor", "doctor"), meaning)
    doctor.add_argument("--online", action="store_true", help="dial the Kubernetes API as well, and ask what it grants")
    doctor.add_argument("--bundle", metavar="FILE", help="also write FILE, a .tar.gz with all that somebody else needs")
    _settings_flags(doctor)
    meaning = "what Kubernetes must permit the daemon and the approver, as manifests"
    rbac = verb("rbac", _plain("rbac", "rbac"), meaning, ("yaml",))
    rbac.add_argument("--namespace", default="kube-system", metavar="NS", help="default: kube-system")
    daemon = verb("daemon", _plain("configure", "daemon"), "run the daemon in the foreground")
    _settings_flags(daemon)
    _mesh_verbs(verb("mesh", _reading("mesh_status", "status"), "is the mesh in force on this node, and if not, why"))
    _approver_flags(verb("approver", _plain("approver", "approver"), "approve the pod CIDRs of a list of nodes"))
    _migrate_verbs(verb("migrate", _plain("migrate", "check"), "from Flannel to HeadCNI: what it would change"))
    meaning = "put the plugin's binaries where the container runtime looks; may be repeated"
    install = verb("install", _plain("install", "install"), meaning)
    install.add_argument("--config", metavar="FILE", help="YAML; default: $HEADCNI_CONFIG, or none")
    where = f"where the runtime looks for plugins; default: cni.binDir, or {BY_KEY['cni.binDir'].default}"
    install.add_argument("--bin-dir", metavar="DIR", dest="cni_bin_dir", help=where)
    install.add_argument("--plugin", metavar="FILE", required=True, help="becomes headcni and headcni-ipam")
    install.add_argument("--loopback", metavar="FILE", help="becomes loopback, where there is none")
    uninstall = verb("uninstall", _uninstall, "put the node back as it was before; the daemon must be stopped")
    uninstall.add_argument("--purge", action="store_true", help="cut off the pods that are left, forget the history")
    stay = "leave the plugin, for pods that the runtime has still to delete; a later run removes it"
    uninstall.add_argument("--keep-binaries", action="store_true", help=stay)
    uninstall.add_argument("--tailscale-socket", metavar="PATH", help="of tailscaled; default: where the daemon had it")
    return parser


def _common(parser: ArgumentParser, formats: tuple[str, ...], state_dir: str | None, output: str) -> None:
    where = f"default: ${STATE_DIR.env}, or {STATE_DIR.default}"
    parser.add_argument("--state-dir", metavar="DIR", default=state_dir, help=where)
    shapes = " | ".join(formats)
    parser.add_argument("-o", "--output", choices=formats, default=output, metavar="FORMAT", help=shapes)


def _mesh_verbs(mesh: ArgumentParser) -> None:
    verbs = mesh.add_subparsers(metavar="VERB")

    def verb(name: str, run: Callable[[Namespace], Any], help: str) -> ArgumentParser:
        sub = verbs.add_parser(name, help=help, description=help)
        _common(sub, FORMATS, SUPPRESS, SUPPRESS)
        sub.set_defaults(run=run)
        return sub

    verb(
        "status",
        _reading("mesh_status", "status"),
        "each link of the chain of each prefix of this node; also without VERB",
    )
    why = verb(
        "why", _reading("mesh_why", "why"), "which link from this node to an address is broken, and how to mend it"
    )
    why.add_argument(
        "query", metavar="POD|IP", help="pod of this node (name or namespace/name), or any pod's IP address"
    )
    verb(
        "routes", _reading("mesh_status", "routes"), "what is advertised here and by whom, what is accepted from peers"
    )
    verb("dns", _reading("mesh_dns", "dns"), "how pods resolve names of the tailnet: what CoreDNS needs")
    policy = verb("policy", _plain("mesh_policy", "policy"), "the autoApprovers for this cluster in Headscale's policy")
    policy.add_argument("--owner", metavar="WHO", help="user@ or tag:NAME of the nodes; default: tailscale.tags")
    policy.add_argument("--apply", action="store_true", help="put it there through Headscale's API")
    _settings_flags(policy)
    verb(
        "repair",
        _reading("mesh_repair", "repair"),
        "have the daemon look and mend at once; waits, then shows the status",
    )


def _migrate_verbs(migrate: ArgumentParser) -> None:
    meaning = "what would change, node by node, and in which order; exit code 1: something must be settled first"
    check = migrate.add_subparsers(metavar="VERB", required=True).add_parser("check", help=meaning, description=meaning)
    _common(check, FORMATS, SUPPRESS, SUPPRESS)
    check.set_defaults(run=_plain("migrate", "check"))
    check.add_argument("--subnet-env", metavar="FILE", help="Flannel's; default: /run/flannel/subnet.env")
    check.add_argument("--net-conf", metavar="FILE", help="Flannel's; default: as on this node, or in its ConfigMap")
    _settings_flags(check)


def _approver_flags(parser: ArgumentParser) -> None:
    nodes = parser.add_mutually_exclusive_group(required=True)
    nodes.add_argument("--nodes", metavar="FILE", help="YAML: name, podCIDRs and tailnet of each node")
    nodes.add_argument("--kube", action="store_true", help="the nodes of Kubernetes; of several approvers one works")
    parser.add_argument("--kubeconfig-file", metavar="FILE", dest="kubeconfig", help="with --kube: the way to its API")
    parser.add_argument("--kube-url", metavar="URL", help="with --kube: the API server")
    where = "with --kube: of the Lease; default: that of the pod this runs in, or kube-system"
    parser.add_argument("--lease-namespace", metavar="NAMESPACE", help=where)
    parser.add_argument("--headscale-url", metavar="URL", required=True, help="Headscale's server_url")
    parser.add_argument("--cluster-cidr", metavar="CIDR", required=True, action="append", help="the pods of all nodes")
    parser.add_argument("--api-key-file", metavar="FILE", help="Headscale's API key; default: $HEADCNI_API_KEY")
    parser.add_argument("--ca-file", metavar="FILE", help="authorities for its certificate; default: the system's")
    parser.add_argument("--once", action="store_true", help="one round, print what it did, and exit")


def _settings_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="YAML; default: $HEADCNI_CONFIG, or none")
    for setting in SETTINGS:
        if setting.flag and setting is not STATE_DIR:
            parser.add_argument(
                setting.flag, dest=setting.field, help=setting.help.replace("%", "%%"), **_kind(setting)
            )


def _kind(setting: Setting) -> dict[str, Any]:
    if setting.switch:
        return {"action": argparse.BooleanOptionalAction, "default": None}
    return {"metavar": setting.form, "action": "append" if setting.repeatable else "store"}


# --- verbs, imported when they are run


def _reading(module: str, function: str) -> Callable[[Namespace], int | Refusal]:
    def run(args: Namespace) -> int | Refusal:
        from cni.spec import Refusal
        from reconciler.operate.statedir import open_state

        state = open_state(_root(args))
        if isinstance(state, Refusal):
            return state
        outcome: int | Refusal = _verb(module, function)(args, state, time.time())
        return outcome

    return run


def _uninstall(args: Namespace) -> int | Refusal:
    outcome: int | Refusal = _verb("uninstall", "uninstall")(args, _root(args))
    return outcome


def _root(args: Namespace) -> Path:
    return real_path(args.state_dir or os.environ.get(STATE_DIR.env) or STATE_DIR.default)


def _plain(module: str, function: str) -> Callable[[Namespace], int | Refusal]:
    return lambda args: _verb(module, function)(args)


def _verb(module: str, function: str) -> Callable[..., Any]:
    from importlib import import_module

    found: Callable[..., Any] = getattr(import_module(f"reconciler.operate.{module}"), function)
    return found


if __name__ == "__main__":
    sys.exit(main())
