"""`headcni approver`: approves, for the nodes of a list, exactly the pod CIDRs that the list gives them.

Runs anywhere in reach of Headscale, as any user, and needs no daemon. `--once` does one round, prints what it did, and
fails if something of the list is not as it should be. Without it, it runs until SIGTERM, and waits out failures.
"""

from __future__ import annotations

import asyncio
import signal
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from cni.spec import Code, Refusal
from reconciler.mesh.approver import Approver
from reconciler.mesh.headscale import HeadscaleClient
from reconciler.mesh.members import MembersFile
from reconciler.mesh.model import Finding
from reconciler.mesh.secrets import API_KEY, read_key
from reconciler.mesh.url import check_url
from reconciler.operate import log
from reconciler.parsers import Network, Wrong, networks


def approver(args: Namespace) -> int | Refusal:
    url, cluster = check_url(args.headscale_url), _cluster(args.cluster_cidr)
    members = MembersFile(Path(args.nodes))
    for given in (url, cluster, members.read()):
        if isinstance(given, Refusal):
            return given
    assert isinstance(url, str)
    assert isinstance(cluster, tuple)
    log.setup("info")
    return asyncio.run(_approve(args, url, members, cluster))


def _cluster(given: Sequence[str]) -> tuple[Network, ...] | Refusal:
    found = networks(given)
    if isinstance(found, Wrong):
        return Refusal(Code.INVALID_CONFIGURATION, f"--cluster-cidr: {found.what}", found.cure)
    return found or Refusal(Code.INVALID_CONFIGURATION, "--cluster-cidr is empty", "name the CIDR of all nodes' pods")


async def _approve(args: Namespace, url: str, members: MembersFile, cluster: Sequence[Network]) -> int | Refusal:
    key_file = Path(args.api_key_file) if args.api_key_file else None
    ca_file = Path(args.ca_file) if args.ca_file else None
    headscale = HeadscaleClient(url, lambda: read_key(API_KEY.variable, key_file), ca_file)
    approver = Approver(headscale, members.read, cluster)
    try:
        return await _once(approver) if args.once else await _until_stopped(approver)
    finally:
        await headscale.close()


async def _once(approver: Approver) -> int | Refusal:
    done = await approver.round()
    print("\n".join(map(str, done.changes)) or "nothing was to be approved")
    return _summed(done.problems) if done.problems else 0


async def _until_stopped(approver: Approver) -> int:
    running = asyncio.create_task(approver.run())
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
