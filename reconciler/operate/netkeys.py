"""The keys of the network configuration, for docs/configuration.md: default and meaning of each.

`reconciler/netconf.py` reads them; a test holds the names equal to those it knows.
"""

from __future__ import annotations

from typing import NamedTuple


class Key(NamedTuple):
    name: str
    default: str
    meaning: str


NETWORK = (
    Key("cniVersion", "", "Required: 0.3.1, 0.4.0, 1.0.0 or 1.1.0. CHECK needs 0.4.0, GC and STATUS need 1.1.0."),
    Key("name", "", "Required: the network's name. GC collects by it."),
    Key("type", "", "Required: `headcni`; or of a plugin like `bridge`, with `ipam.type` `headcni-ipam`."),
    Key("ipam", "{}", "Where addresses come from: see below. Without it, the daemon's `network.podCIDR.nodeLocal`."),
    Key("state_dir", "/var/lib/headcni", "The daemon's state directory: by it the plugin finds the daemon."),
    Key("timeout_seconds", "30", "How long the plugin waits for an answer, 1 to 110. A kubelet gives up after 120."),
    Key("mtu", "the daemon's", "MTU of the pod's interface, 576 to 65535; with IPv6 at least 1280."),
    Key("dns", "", "`nameservers`, `domain`, `search`, `options`: passed on in the result."),
    Key(
        "service_cidr",
        "",
        "One CIDR, or one for each family with a comma between. Where `ipam.routes` has no default route, a route "
        "to it is added. No pool may overlap it, nor the daemon's `network.serviceCIDR`.",
    ),
    Key("enable_ipv6", "true", "`false` takes the IPv4 part of the node's pod CIDRs, and refuses an IPv6 `subnet`."),
    Key("enable_network_policy", "true", "**Not enforced yet**, and `headcni status` says so."),
    Key("runtimeConfig", "", "From the runtime, by capability. `ips`: the addresses to give."),
    Key("args", "", "`args.cni.ips`: the addresses to give. `CNI_ARGS` may hold `IP=` instead."),
    Key(
        "magic_dns",
        "",
        "`enable` (default false), `base_domain`, `nameservers` (default 100.100.100.100; pods with IPv6 only need "
        "fd7a:115c:a1e0::53), `search_domains`: added to `dns` in the result, whose own `domain` and search domains "
        "come first. Most runtimes ignore a result's `dns`; `headcni mesh dns` prints what they need instead.",
    ),
    Key("headscale_url", "", "No effect: the daemon's `headscale.url` counts, and another one here is warned about."),
    Key("tailscale_socket", "", "No effect: the daemon's `tailscale.socket` counts, as above."),
    Key("pod_cidr", "", "Must be a CIDR, as above, and has no effect: the daemon knows the node's pod CIDR."),
    Key("ipMasq", "", "Known, no effect: masquerade is the daemon's `network.masquerade`."),
    Key("capabilities", "", "Of libcni; no effect here."),
    Key("prevResult", "", "Not read: the record knows better."),
    Key("cniVersions", "", "Of libcni; no effect here."),
    Key("disableCheck", "", "Of libcni; no effect here."),
    Key("disableGC", "", "Of libcni; no effect here."),
)

IPAM = (
    Key("type", "headcni-ipam", "Another name is a program in CNI_PATH, such as `host-local`, that is asked instead."),
    Key(
        "subnet",
        "",
        "The pool, like `10.244.1.0/24`. Without it and `ranges` each of the node's pod CIDRs is one, and the keys "
        "below speak to the pool of their address family; what fits none is refused.",
    ),
    Key(
        "ranges",
        "[]",
        "Instead of `subnet`, for dual stack: `[[{subnet, …}], [{subnet, …}]]`, one subnet a set. A range may hold "
        "`gateway`, `rangeStart`, `rangeEnd` and `exclude` of its own.",
    ),
    Key("gateway", "the first address", "The node's end of every pod's link; never given to a pod."),
    Key("rangeStart", "the first usable", "The lowest address that is given."),
    Key("rangeEnd", "the last usable", "The highest address that is given."),
    Key("exclude", "[]", "Networks or addresses inside the subnet that are never given."),
    Key(
        "allocation_strategy",
        "sequential",
        "`sequential` goes round, so reuse is late; `random`; `dense-pack` takes the lowest: blocks stay whole.",
    ),
    Key("cooldown_seconds", "30", "How long a released address rests while others are free, 0 to 3600."),
    Key("routes", "default routes", "`{dst, gw, mtu, advmss, priority}`; only `dst` is required."),
    Key("dns", "", "As `dns` above, where that is missing."),
)
