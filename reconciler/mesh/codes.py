"""Everything that can be wrong with the mesh, by number, with its remedy.

They continue the numbers of `cni.spec.Code` (HeadCNI's own begin at 100) and never change their meaning once
released; `docs/errors.md` is printed from both. A trouble travels as a `Refusal`: code, what is wrong with which
value, and the cure for this case. The remedy here is the general one.
"""

from __future__ import annotations

from enum import IntEnum


class Trouble(IntEnum):
    TAILSCALED_UNREACHABLE = 120
    TAILSCALED_UNSUITABLE = 121
    TAILSCALED_LOCKED = 122
    TAILSCALED_ANSWER = 123
    NOT_JOINED = 124
    JOINED_ELSEWHERE = 125
    JOIN_REFUSED = 126
    KEY_EXPIRED = 127
    NODE_DELETED = 128
    MESH_STOPPED = 129
    PREFERENCE = 130
    NOT_ANNOUNCED = 131
    NOT_APPROVED = 132
    NOT_PRIMARY = 133
    HIDDEN = 134
    NOT_ACCEPTED = 135
    NOT_DELIVERED = 136
    CIDR_CONFLICT = 137
    CONTROL_LOST = 138
    FENCE = 139
    MTU = 140
    FILTER = 141
    HEADSCALE_UNREACHABLE = 142
    HEADSCALE_URL = 143
    HEADSCALE_KEY = 144
    HEADSCALE_TLS = 145
    HEADSCALE_ANSWER = 146
    HEADSCALE_POLICY = 147
    SECRET = 148
    DNS = 149
    UNPROVEN = 150
    NOT_SERVED = 151


REMEDIES: dict[Trouble, tuple[str, str]] = {
    Trouble.TAILSCALED_UNREACHABLE: (
        "tailscaled does not answer on its socket",
        "start tailscaled, or name its socket with tailscale.socket; pods that run keep their network on this node",
    ),
    Trouble.TAILSCALED_UNSUITABLE: (
        "this tailscaled cannot carry pods: it is too old, or runs without a network interface of its own",
        "upgrade it to the version the message names; start it without --tun=userspace-networking",
    ),
    Trouble.TAILSCALED_LOCKED: (
        "tailscaled's preferences are locked by its configuration file",
        'write "Locked": false into the file given to tailscaled --config, or set the preferences named there',
    ),
    Trouble.TAILSCALED_ANSWER: (
        "tailscaled gave an answer that cannot be used, or refused a request",
        "the message has its words; see tailscaled's log",
    ),
    Trouble.NOT_JOINED: (
        "the node is not joined to the tailnet, and there is no auth key to join with",
        "give an auth key by HEADCNI_AUTH_KEY or headscale.authKeyFile, or join by hand with `tailscale up`",
    ),
    Trouble.JOINED_ELSEWHERE: (
        "the node is joined to another control server than headscale.url, and is left there",
        "correct headscale.url; or leave the other tailnet first with `tailscale logout`",
    ),
    Trouble.JOIN_REFUSED: (
        "the control server does not accept the auth key",
        "make a new one (headscale preauthkeys create --reusable) and write it to headscale.authKeyFile",
    ),
    Trouble.KEY_EXPIRED: (
        "the node's key has expired, so it is cut off from the tailnet",
        "with an auth key the daemon renews it; else run `tailscale up --force-reauth`",
    ),
    Trouble.NODE_DELETED: (
        "the node was deleted in Headscale, although tailscaled believes itself joined",
        "with an auth key the daemon joins again; else run `tailscale up`",
    ),
    Trouble.MESH_STOPPED: (
        "tailscaled is stopped (`tailscale down`), so pods of other nodes cannot be reached",
        "run `tailscale up`",
    ),
    Trouble.PREFERENCE: (
        "a preference of tailscaled that pods need is not as it must be",
        "the daemon sets it; if it is turned back again and again, find the program or person that does",
    ),
    Trouble.NOT_ANNOUNCED: (
        "tailscaled does not announce the prefix",
        "the daemon announces it; if it does not stay, find out who else writes AdvertiseRoutes",
    ),
    Trouble.NOT_APPROVED: (
        "Headscale has not approved the prefix",
        "`headcni mesh policy` prints the autoApprovers for this cluster; or use an approver (docs/mesh.md)",
    ),
    Trouble.NOT_PRIMARY: (
        "Headscale sends the prefix to another node",
        "the message names it; remove the prefix there, or give this node another pod CIDR",
    ),
    Trouble.HIDDEN: (
        "the prefix is served, but another node is not shown it",
        "Headscale's policy must let that node reach the prefix; it must accept routes",
    ),
    Trouble.NOT_ACCEPTED: (
        "a node that is shown the prefix does not route to it",
        "accept-routes must be on there; the daemon on that node repairs it",
    ),
    Trouble.NOT_DELIVERED: (
        "packets between the pod ranges of two nodes do not arrive",
        "see `headcni mesh why ADDRESS`; check shields-up, policy and firewalls on both nodes",
    ),
    Trouble.CIDR_CONFLICT: (
        "another node of the tailnet announces the same, or a covering, prefix",
        "give one of them another CIDR; two clusters on one tailnet need different pod CIDRs",
    ),
    Trouble.CONTROL_LOST: (
        "tailscaled has lost Headscale; pods keep their connections, but nothing new is learned",
        "see that Headscale runs and is reachable from this node; do not restart tailscaled meanwhile",
    ),
    Trouble.FENCE: (
        "the routes or rules that keep pod packets inside the mesh are not in the kernel",
        "the daemon puts them back; the message has the kernel's reason if it cannot",
    ),
    Trouble.MTU: (
        "the configured MTU is larger than the mesh interface's, so large packets may be lost",
        "remove network.mtu, or raise the mesh interface's MTU on all nodes",
    ),
    Trouble.FILTER: (
        "the node's firewall drops forwarded packets, and tailscaled's own rules do not let them pass",
        "set tailscaled's netfilter mode to on, or accept what is forwarded from and to the pod CIDRs",
    ),
    Trouble.HEADSCALE_UNREACHABLE: (
        "Headscale's API does not answer",
        "see that it runs and that headscale.url is reachable from here; approved routes stay in force",
    ),
    Trouble.HEADSCALE_URL: (
        "headscale.url is not that of a Headscale server",
        "write scheme, host and port, without a path, as in Headscale's server_url",
    ),
    Trouble.HEADSCALE_KEY: (
        "Headscale does not accept the API key",
        "make a new one (headscale apikeys create) and write it to headscale.apiKeyFile",
    ),
    Trouble.HEADSCALE_TLS: (
        "no trusted TLS connection to Headscale",
        "name its authority with headscale.caFile, or use a name that its certificate carries",
    ),
    Trouble.HEADSCALE_ANSWER: (
        "Headscale gave an answer that cannot be used, or refused a request",
        "the message has its words; see Headscale's log",
    ),
    Trouble.HEADSCALE_POLICY: (
        "the policy cannot be changed through the API",
        "add what `headcni mesh policy` prints to the policy file by hand, and reload Headscale",
    ),
    Trouble.SECRET: (
        "a key cannot be read, or is empty",
        "the message names the file or variable; it must hold the key and nothing else",
    ),
    Trouble.UNPROVEN: (
        "nobody could be asked yet whether the prefix is served",
        "wait some seconds; if it lasts, see the other troubles of this node",
    ),
    Trouble.NOT_SERVED: (
        "the prefix is announced, but Headscale sends it to no node",
        "approve it; if it is approved, the daemon announces it again by itself",
    ),
    Trouble.DNS: (
        "names of the tailnet cannot be resolved from pods",
        "`headcni mesh dns` says what is missing",
    ),
}
