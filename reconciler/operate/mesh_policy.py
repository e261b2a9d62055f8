"""`headcni mesh policy`: the autoApprovers that this cluster needs in Headscale's policy; `--apply` puts them there.

It takes the daemon's flags and configuration, and needs neither daemon nor node: it is what one does first. What goes
to standard output is JSON and nothing else, so that it can be piped; what is to be known besides goes to standard
error. The API key comes from its variable or file, is used once and is kept nowhere.
"""

from __future__ import annotations

import sys
from argparse import Namespace

import orjson

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.backend import Generation
from reconciler.mesh.policy import apply_policy, snippet
from reconciler.mesh.secrets import API_KEY, read_key
from reconciler.operate.configure import loader, refused
from reconciler.operate.output import emit
from reconciler.operate.statedir import open_state
from reconciler.settings import Network, as_text

ANYBODY = "USER@"
BASE = "network.podCIDR.base"
WHO = "give --owner user@ or --owner tag:NAME, the one that your nodes belong to; or set tailscale.tags"


def policy(args: Namespace) -> int | Refusal:
    config = loader(args)()
    if not isinstance(config, Config):
        return refused(config)
    cluster = cluster_cidrs(config)
    owner = args.owner or next(iter(config.tailscale_tags), "") or _owner_here(config)
    if args.apply:
        return _apply(config, cluster, owner)
    text = snippet(cluster, owner or ANYBODY, Generation.APPROVALS)
    if args.output == "yaml":
        emit(orjson.loads(text), "yaml")
    else:
        print(text)
    if not owner:
        print(f"note: {ANYBODY} stands for the owner of the nodes: {WHO}", file=sys.stderr)
    print("note: up to Headscale 0.25 a user is written without the @", file=sys.stderr)
    print(
        "note: this is a part of a policy. Where Headscale has none yet, it must also say who may reach whom (`acls`), "
        "or Headscale 0.26 lets nobody reach anybody; --apply writes both",
        file=sys.stderr,
    )
    return 0


def cluster_cidrs(config: Config) -> tuple[Network, ...]:
    """What is configured here, or else what the daemon of this node was told in some other way."""
    state = open_state(config.state_dir)
    if config.origins[BASE] != "default" or isinstance(state, Refusal):
        return config.cluster_cidrs
    return state.cluster_cidrs() or config.cluster_cidrs


def _owner_here(config: Config) -> str:
    """Of this node, if its daemon has seen it joined."""
    state = open_state(config.state_dir)
    view = None if isinstance(state, Refusal) else state.mesh_view()
    return view.owner if view else ""


def _apply(config: Config, cluster: tuple[Network, ...], owner: str) -> int | Refusal:
    if not owner:
        return Refusal(Trouble.HEADSCALE_POLICY, "whose routes shall be approved is not known", WHO)
    if not config.headscale_url:
        cure = "give --headscale-url, scheme, host and port, or name the daemon's file with --config"
        return Refusal(Trouble.HEADSCALE_URL, "headscale.url is not set", cure)
    import asyncio

    added = asyncio.run(_write(config, cluster, owner))
    if isinstance(added, Refusal):
        return added
    what = "added" if added else "nothing to add:"
    print(f"{what} autoApprovers for {as_text(cluster)} of {owner} in the policy of {config.headscale_url}")
    return 0


async def _write(config: Config, cluster: tuple[Network, ...], owner: str) -> bool | Refusal:
    from reconciler.mesh.headscale import HeadscaleClient

    key_file = config.api_key_file
    headscale = HeadscaleClient(
        config.headscale_url, lambda: read_key(API_KEY.variable, key_file), config.headscale_ca_file
    )
    try:
        return await apply_policy(headscale, cluster, owner)
    finally:
        await headscale.close()
