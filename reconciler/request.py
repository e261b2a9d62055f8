"""What one intent asks for, checked: the variables of the runtime and the network configuration together.

The plugin has checked only what becomes part of a file name; the rest is checked here, where a message can be as
long as it needs to be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address

from cni.spec import Code, Refusal, Verb
from reconciler.ipam.pool import PoolSpec
from reconciler.netconf import NetConf, parse
from statemachine.attachment import Pod, State
from statemachine.intent import Intent

SINCE = {Verb.CHECK: "0.4.0", Verb.GC: "1.1.0", Verb.STATUS: "1.1.0"}


@dataclass(frozen=True, slots=True)
class Request:
    intent: Intent
    conf: NetConf
    pod: Pod
    goal: State

    @property
    def netns_path(self) -> str:
        return self.intent.env.get("CNI_NETNS", "")


def understand(intent: Intent, node_pools: tuple[PoolSpec, ...]) -> Request | Refusal:
    conf = parse(intent.config)
    if isinstance(conf, Refusal):
        return conf
    since = SINCE.get(intent.verb)
    if since and conf.cni_version < since:
        return Refusal(
            Code.INCOMPATIBLE_VERSION,
            f"{intent.verb} came with cniVersion {conf.cni_version}",
            f"it exists from {since} on; set cniVersion to {since} or later",
        )
    args = _arguments(intent.env.get("CNI_ARGS", ""))
    if isinstance(args, Refusal):
        return args
    conf = _with_asked_address(conf, args)
    if isinstance(conf, Refusal):
        return conf
    ipam_only = intent.plugin == "headcni-ipam"
    if ipam_only and conf.delegate:
        return Refusal(
            Code.INVALID_CONFIGURATION,
            f'ipam.type: "{conf.delegate}" was run as headcni-ipam',
            'set ipam.type to "headcni-ipam"',
        )
    if not conf.pools and not conf.delegate:
        conf = _with_node_pools(conf, node_pools)
        if isinstance(conf, Refusal):
            return conf
    pod = Pod(args.get("K8S_POD_NAMESPACE", ""), args.get("K8S_POD_NAME", ""), args.get("K8S_POD_UID", ""))
    return Request(intent, conf, pod, State.ALLOCATED if ipam_only else State.ADVERTISED)


def _arguments(text: str) -> dict[str, str] | Refusal:
    args = {}
    for pair in filter(None, text.split(";")):
        name, equals, value = pair.partition("=")
        if not equals or not name:
            return Refusal(
                Code.INVALID_ENVIRONMENT,
                f'CNI_ARGS: "{pair[:60]}" is not NAME=VALUE',
                "write NAME=VALUE pairs with ';' between them",
            )
        args[name] = value
    return args


def _with_asked_address(conf: NetConf, args: dict[str, str]) -> NetConf | Refusal:
    if "IP" not in args or conf.asked:
        return conf
    try:
        asked = tuple(ip_address(each.partition("/")[0].strip()) for each in args["IP"].split(","))
    except ValueError:
        return Refusal(
            Code.INVALID_ENVIRONMENT,
            f'CNI_ARGS: IP="{args["IP"][:60]}" is not an IP address',
            "write IP=10.244.1.7, or leave it out",
        )
    return replace(conf, asked=asked)


def _with_node_pools(conf: NetConf, node_pools: tuple[PoolSpec, ...]) -> NetConf | Refusal:
    """A network without a subnet of its own takes the node's pod CIDRs."""
    if not node_pools:
        return Refusal(
            Code.INVALID_CONFIGURATION,
            "ipam.subnet: missing, and the daemon knows no pod CIDR of this node",
            "set ipam.subnet, or start the daemon with --pod-cidr",
        )
    ipam = conf.raw.get("ipam") or {}
    strategy = ipam.get("allocation_strategy", "sequential")
    cooldown = ipam.get("cooldown_seconds", 30)
    fitted = tuple(
        replace(pool, strategy=type(pool.strategy)(strategy), cooldown=float(cooldown)) for pool in node_pools
    )
    return replace(conf, pools=fitted)
