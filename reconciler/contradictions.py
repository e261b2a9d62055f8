"""What must hold between settings, each of which is valid by itself.

A contradiction keeps the daemon from starting; what is merely suspicious, or has no effect, is a warning. A value
that was wrong by itself is missing from `values`, and causes no second complaint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network
from typing import Any

from reconciler.mesh.secrets import API_KEY, AUTH_KEY, have_key
from reconciler.parsers import Wrong
from reconciler.settings import as_text

TAILNET = IPv4Network("100.64.0.0/10")
_SOFT = {  # defaults that give way to what the node's files say; `reconciler/node/podcidr.py` judges between those
    "cluster_cidrs": "network.podCIDR.base",
    "service_cidrs": "network.serviceCIDR",
    "node_prefix": "network.podCIDR.perNode",
}
_ALWAYS = ("tailscale.socket",)  # also to leave a mesh that there was before
_SWITCHES = (
    ("mesh.mode", "mesh_mode", "none", ("mesh.", "headscale.", "tailscale.")),
    ("kube.mode", "kube_mode", "off", ("kube.",)),
)


def conflicts(
    values: Mapping[str, Any], origins: Mapping[str, str], environ: Mapping[str, str]
) -> Iterator[tuple[str, Wrong]]:
    """By the key that is to be corrected."""
    if values.get("mesh_mode") == "tailscale":
        yield from _mesh_conflicts(values, environ)
    defaults = {field for field, key in _SOFT.items() if origins.get(key, "default") == "default"}
    values = {field: value for field, value in values.items() if field not in defaults}
    own, base = values.get("pod_cidrs", ()), values.get("cluster_cidrs", ())
    services, static = values.get("service_cidrs", ()), values.get("static_routes", ())
    mtu, prefix = values.get("mtu", 0), values.get("node_prefix", 32)
    for key, pods in (("network.podCIDR.nodeLocal", own), ("network.podCIDR.base", base)):
        for pod, service in _pairs(pods, services):
            if pod.overlaps(service):
                cure = "a pod would get a Service's address: move one of them, as the cluster was set up"
                yield key, Wrong(f"{pod} overlaps network.serviceCIDR {service}", cure)
    for cidr in own:
        if cidr.num_addresses < 2:
            cure = f"write /{cidr.max_prefixlen - 1} or wider, like 10.244.1.0/24"
            yield "network.podCIDR.nodeLocal", Wrong(f"{cidr} has no room for a gateway and a pod", cure)
    for cidr in base:
        if cidr.version == 4 and prefix < cidr.prefixlen:
            cure = f"a node's share must fit: write /{cidr.prefixlen} or longer"
            yield "network.podCIDR.perNode", Wrong(f"is wider than network.podCIDR.base {cidr}", cure)
    for cidr, route in _pairs(own, [route.dst for route in static]):
        if route.subnet_of(cidr):
            cure = "remove this route: it would lead this node's own pods away"
            yield "network.staticRoutes", Wrong(f"{route} lies in this node's pod CIDR {cidr}", cure)
    if 0 < mtu < 1280 and any(cidr.version == 6 for cidr in (*own, *base)):
        yield "network.mtu", Wrong("is too small for IPv6", "write 1280 or more, or 0 for automatic")


def _mesh_conflicts(values: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[tuple[str, Wrong]]:
    if values.get("mesh_approval") == "key":
        if values.get("headscale_url") == "":
            yield "mesh.approval", Wrong("needs to know Headscale", "set headscale.url, or mesh.approval to auto")
        if "api_key_file" in values and not have_key(API_KEY.variable, values["api_key_file"], environ):
            cure = f"name its file with {API_KEY.file_key}, set {API_KEY.variable}, or set mesh.approval to auto"
            yield "mesh.approval", Wrong("needs a key of Headscale's API", cure)
    kept_out = [*values.get("pod_cidrs", ()), *(route.dst for route in values.get("static_routes", ()))]
    for guarded, cidr in _pairs(values.get("guard", ()), values.get("cluster_cidrs", ())):
        if guarded.overlaps(cidr) and not any(_within(guarded, each) for each in kept_out):
            cure = "remove it: pods of other nodes are reached through the mesh, and this would keep their packets out"
            yield "mesh.guard", Wrong(f"{guarded} overlaps network.podCIDR.base {cidr}", cure)


def suspicions(values: Mapping[str, Any], origins: Mapping[str, str], environ: Mapping[str, str]) -> Iterator[str]:
    base = values["cluster_cidrs"]
    for cidr in values["pod_cidrs"]:
        if not any(_within(cidr, whole) for whole in base):
            yield (
                f"network.podCIDR.nodeLocal: {cidr} is outside network.podCIDR.base {as_text(base)}; "
                "other nodes will take its pods for strangers"
            )
    if values["mesh_mode"] == "tailscale":
        yield from _mesh_suspicions(values, environ)
    if values["cni_set_aside"] and values["cni_template"] is None:
        yield "cni.setAside: no effect, as cni.template names no file"
    for switch, field, off, ones in _SWITCHES:
        given = [key for key, origin in origins.items() if origin != "default" and key not in (switch, *_ALWAYS)]
        idle = [key for key in given if key.startswith(ones)]
        if idle and values[field] == off:
            yield f"{', '.join(idle)}: no effect, as {switch} is {off}"


def _mesh_suspicions(values: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    for route in values["static_routes"]:
        if values["fail_closed"] and any(_within(route.dst, cidr) for cidr in values["cluster_cidrs"]):
            yield (
                f"network.staticRoutes: {route} leads to pods, so packets to them may leave the node in clear, "
                "in spite of mesh.failClosed"
            )
    for key, field, harm in (
        ("network.podCIDR.base", "cluster_cidrs", "tailscaled drops what others send from there"),
        ("mesh.guard", "guard", "nodes and MagicDNS have their addresses there, and could not be reached"),
    ):
        for cidr in values[field]:
            if cidr.overlaps(TAILNET):
                yield f"{key}: {cidr} overlaps {TAILNET}, the range of tailnets; {harm}"
    url = values["headscale_url"]
    if not url and have_key(AUTH_KEY.variable, values["auth_key_file"], environ):
        yield "headscale.url: not set, so a node that is not joined yet is not joined, although there is an auth key"
    if url.startswith("http:") and have_key(API_KEY.variable, values["api_key_file"], environ):
        yield f"headscale.url: {url} is not encrypted, and the API key goes there in clear; use https"


def _within(cidr: Any, whole: Any) -> bool:
    return bool(cidr.version == whole.version and cidr.subnet_of(whole))


def _pairs(some: Any, others: Any) -> list[tuple[Any, Any]]:
    """Those of one address family: only they can be compared."""
    return [(a, b) for a in some for b in others if a.version == b.version]
