"""What one intent asks for, checked: the variables of the runtime and the network configuration together.

The plugin has checked only what becomes part of a file name; the rest is checked here, where a message can be as
long as it needs to be.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from cni.plugin import top_level
from cni.spec import SUPPORTED_VERSIONS, Code, Refusal, Verb
from reconciler.ipam.pool import Network, PoolSpec
from reconciler.netconf import NetConf, parse, with_node_pools
from reconciler.reader import plain_address
from statemachine.attachment import Pod, State
from statemachine.intent import Intent

DEFAULT_VERSION = "1.0.0"  # of an answer to somebody who asked for none that we know
SCANNED_BYTES = 1 << 16
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


def understand(
    intent: Intent, node_pools: tuple[PoolSpec, ...], service_cidrs: tuple[Network, ...] = ()
) -> Request | Refusal:
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
    ipam_only = intent.plugin == "headcni-ipam"
    if ipam_only and conf.delegate:
        return Refusal(
            Code.INVALID_CONFIGURATION,
            f'ipam.type: "{conf.delegate}" was run as headcni-ipam',
            'set ipam.type to "headcni-ipam"',
        )
    goal = State.ALLOCATED if ipam_only else State.ADVERTISED
    if intent.verb is not Verb.ADD:
        return Request(intent, conf, Pod(), goal)
    return _understand_add(Request(intent, conf, Pod(), goal), node_pools, service_cidrs)


def asked_version(intent: Intent) -> str:
    """For the answer to a configuration that cannot be used: the version it asks for, if that can be told."""
    found = top_level(intent.config[:SCANNED_BYTES], (b"cniVersion",)).get(b"cniVersion", b"")
    version = found.strip(b'"').decode("ascii", "replace")
    return version if version in SUPPORTED_VERSIONS else DEFAULT_VERSION


def _understand_add(
    request: Request, node_pools: tuple[PoolSpec, ...], service_cidrs: tuple[Network, ...]
) -> Request | Refusal:
    """What only an ADD needs is asked of an ADD only: a delete must not fail for want of a pod CIDR."""
    args = _arguments(request.intent.env.get("CNI_ARGS", ""))
    if isinstance(args, Refusal):
        return args
    conf = _with_asked_address(request.conf, args)
    if isinstance(conf, Refusal):
        return conf
    if not conf.pools and not conf.delegate:
        conf = with_node_pools(conf, [pool.subnet for pool in node_pools])
        if isinstance(conf, Refusal):
            return conf
    refusal = _service_overlap(conf, service_cidrs)
    if refusal is not None:
        return refusal
    pod = Pod(args.get("K8S_POD_NAMESPACE", ""), args.get("K8S_POD_NAME", ""), args.get("K8S_POD_UID", ""))
    return replace(request, conf=conf, pod=pod)


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
        asked = tuple(plain_address(each.partition("/")[0].strip()) for each in args["IP"].split(","))
    except ValueError:
        return Refusal(
            Code.INVALID_ENVIRONMENT,
            f'CNI_ARGS: IP="{args["IP"][:60]}" is not an IP address',
            "write IP=10.244.1.7, or one for each family as IP=10.244.1.7,fd00:244:1::7, or leave it out",
        )
    return replace(conf, asked=asked)


def _service_overlap(conf: NetConf, service_cidrs: tuple[Network, ...]) -> Refusal | None:
    """A pod with a Service's address would be unreachable, or the Service would."""
    named = (("network.serviceCIDR", service_cidrs), ("service_cidr", conf.service_cidrs))
    for pool in conf.pools:
        for name, services in named:
            for service in services:
                if pool.subnet.version == service.version and pool.subnet.overlaps(service):
                    return Refusal(
                        Code.INVALID_CONFIGURATION,
                        f"ipam.subnet: {pool.subnet} overlaps {name} {service}",
                        f"choose a subnet outside it, or set {name} to the addresses of this cluster's Services",
                    )
    return None
