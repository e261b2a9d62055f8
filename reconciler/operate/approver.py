"""`headcni approver`: approves, for the nodes of a list, exactly the pod CIDRs that the list gives them.

The list is a file (`--nodes`), or that of Kubernetes (`--kube`). Runs anywhere in reach of Headscale (and of the API
server), as any user, and needs no daemon. `--once` does one round, prints what it did, and fails if something of the
list is not as it should be. Without it, it runs until SIGTERM, and waits out failures.

With Kubernetes there may be several, of which one works at a time: who holds the Lease. A single round needs none, for
two who decide the same do the same.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from argparse import Namespace
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cni.spec import Code, Refusal
from reconciler.config import Config, load
from reconciler.mesh.approver import Approver, Round
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.mesh.members import MembersFile
from reconciler.mesh.model import Finding
from reconciler.mesh.secrets import API_KEY, read_key
from reconciler.mesh.url import check_url
from reconciler.operate import log
from reconciler.operate.configure import refused
from reconciler.parsers import Network, Wrong, networks

if TYPE_CHECKING:
    from reconciler.kube.finder import Reaching

Clusters = tuple[Network, ...]


def approver(args: Namespace) -> int | Refusal:
    url, cluster, source = check_url(args.headscale_url), _cluster(args.cluster_cidr), _source(args)
    for given in (url, cluster, source):
        if isinstance(given, Refusal):
            return given
    assert isinstance(url, str)
    assert isinstance(cluster, tuple)
    assert not isinstance(source, Refusal)
    log.setup("info")
    return asyncio.run(_approve(args, url, source, cluster))


def _source(args: Namespace) -> MembersFile | Config | Refusal:
    if not args.kube:
        members = MembersFile(Path(args.nodes))
        first = members.read()
        return first if isinstance(first, Refusal) else members
    given = {"kube.mode": "auto", "kube.kubeconfig": args.kubeconfig, "kube.url": args.kube_url}
    config = load(given, os.environ, None)
    return config if isinstance(config, Config) else refused(config)


def _cluster(given: Sequence[str]) -> Clusters | Refusal:
    found = networks(given)
    if isinstance(found, Wrong):
        return Refusal(Code.INVALID_CONFIGURATION, f"--cluster-cidr: {found.what}", found.cure)
    return found or Refusal(Code.INVALID_CONFIGURATION, "--cluster-cidr is empty", "name the CIDR of all nodes' pods")


async def _approve(args: Namespace, url: str, source: MembersFile | Config, cluster: Clusters) -> int | Refusal:
    key_file = Path(args.api_key_file) if args.api_key_file else None
    ca_file = Path(args.ca_file) if args.ca_file else None
    headscale = HeadscaleClient(url, lambda: read_key(API_KEY.variable, key_file), ca_file)
    try:
        if isinstance(source, Config):
            return await _with_kubernetes(args, source, headscale, cluster)
        approver = Approver(headscale, source.read, cluster)
        return _told(await approver.round()) if args.once else await _until_stopped(approver.run())
    finally:
        await headscale.close()


async def _with_kubernetes(
    args: Namespace, config: Config, headscale: HeadscaleClient, cluster: Clusters
) -> int | Refusal:
    from reconciler.kube.approving import approve, approve_once, beside, own_name, own_namespace
    from reconciler.kube.assemble import make_finder

    finder = make_finder(lambda: config, "", _log_way)
    if args.once:
        return _told(await beside(finder.run(), approve_once(finder, headscale, cluster)))
    work = approve(finder, headscale, cluster, args.lease_namespace or own_namespace(), own_name())
    return await _until_stopped(beside(finder.run(), work))


def _log_way(reaching: Reaching) -> None:
    refusal = reaching.refusal
    if refusal is not None:
        logging.getLogger("headcni").warning("kube: code=%d %s", refusal.code, refusal)
    else:
        logging.getLogger("headcni").info("kube: the API server is reached by %s", reaching.endpoint)


def _told(done: Round | Refusal) -> int | Refusal:
    if isinstance(done, Refusal):
        return done
    print("\n".join(map(str, done.changes)) or "nothing was to be approved")
    return _summed(done.problems) if done.problems else 0


async def _until_stopped(work: Coroutine[Any, Any, None]) -> int:
    running = asyncio.create_task(work)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:  # at any point: what was begun is found again by the next one
        pass
    return 0


def _summed(problems: Sequence[Finding]) -> Refusal:
    if len(problems) == 1:
        return problems[0].trouble
    told = "\n".join(f"  {each.trouble}" for each in problems)
    return Refusal(problems[0].trouble.code, f"{len(problems)} problems", told)
