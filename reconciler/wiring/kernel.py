"""Makes the kernel hold what a plan says, from whatever it holds already.

The happy path is four sends on two sockets: the veth pair with a look at it, for the two indexes; all of the pod's
end; all of the node's end; a look whether the pod's end can send. `benchmarks/wiring.py` shows what each costs; nearly
all of it is the kernel's work.

From a partial state: a link of our name is kept and completed if it is in our link group and its peer is the pod's
interface of that name, by index and namespace on both sides; else, if it is ours, it is deleted and made anew.
Whatever is not ours is never touched: an interface of the pod's that has the name asked for, or a route to the same
destination through another interface, is a refusal that names it. A refusal leaves nothing that this call made.

Deleting one link costs the kernel 15 to 20 ms, and a hundred in one request little more. A request names either one
interface or a whole link group, so the links are moved to a group of the doomed, and that group is deleted. Nothing
is locked here: requests of other threads wait for the kernel's own lock, and only as long as it is held.

Blocking calls, for worker threads, any number at once, for different attachments.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from errno import EEXIST, ENODEV

from cni.spec import Code, Refusal
from reconciler.ipam.pool import Address
from reconciler.ports import Wired
from reconciler.wiring import codec, inspect, namespace, replies, requests
from reconciler.wiring.netlink import Netlink
from reconciler.wiring.plan import End, LinkPlan
from reconciler.wiring.requests import Request
from statemachine.attachment import Namespace

_PAUSES = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032)  # seconds
_AT_ONCE = 200  # the kernel's lock is held for 60 ms; for 2,000 it would be seconds, and every ADD would wait


@dataclass(frozen=True, slots=True)
class Pair:
    host: int
    pod: int
    new: bool


class KernelWiring:
    def __init__(self, group: int) -> None:
        self._group = group
        self._doomed = group | 1

    def identity(self, path: str) -> Namespace | Refusal:
        return namespace.identify(path)

    def wire(self, plan: LinkPlan, netns: Namespace) -> Wired | Refusal:
        descriptor = namespace.open_namespace(netns)
        if isinstance(descriptor, Refusal):
            return descriptor
        try:
            with Netlink() as host, namespace.inside(descriptor, Netlink) as pod:
                here, there = plan.host_end, plan.pod_end
                pair = self._make_pair(here, there, host, pod, descriptor)
                if isinstance(pair, Refusal):
                    return pair
                refusal = _configure(pod, there, pair.pod, new=pair.new)
                refusal = refusal or _configure(host, here, pair.host, new=pair.new)
                if refusal is None:
                    _await_running(pod, pair.pod)
                    return Wired(pair.host, pair.pod)
                if pair.new:
                    _unless_gone(host, [requests.delete_link(pair.host)])
                return refusal
        finally:
            os.close(descriptor)

    def unwire(self, host_names: Sequence[str]) -> None:
        """Links that are not there, or not ours, are as they should be."""
        with Netlink() as host:
            for start in range(0, len(host_names), _AT_ONCE):
                self._unwire(host, host_names[start : start + _AT_ONCE])

    def _unwire(self, host: Netlink, host_names: Sequence[str]) -> None:
        answer = host.ask([requests.get_link(name) for name in host_names])
        links = [replies.link(body) for body in answer.replies.values()]
        ours = [link.index for link in links if link.group in (self._group, self._doomed)]
        if ours:
            _unless_gone(host, [requests.set_group(index, self._doomed) for index in ours])
            _unless_gone(host, [requests.delete_group(self._doomed)])

    def inspect(self, plan: LinkPlan, netns: Namespace) -> tuple[str, ...]:
        with Netlink() as host:
            found = tuple(inspect.differences(plan.host_end, inspect.look(host, plan.host_end)))
        descriptor = namespace.open_namespace(netns)
        if isinstance(descriptor, Refusal):
            return (*found, str(descriptor))
        try:
            with namespace.inside(descriptor, Netlink) as pod:
                return (*found, *inspect.differences(plan.pod_end, inspect.look(pod, plan.pod_end)))
        finally:
            os.close(descriptor)

    def links(self) -> frozenset[str]:
        """On the node, those that a kill left half deleted included."""
        with Netlink() as host:
            bodies = host.dump(requests.get_links())
            return frozenset(replies.names_in(bodies, (self._group, self._doomed)))

    def addresses_behind(self, host_name: str) -> tuple[Address, ...]:
        """What the node's host routes send to that link: all that is known of a pod whose record cannot be read."""
        with Netlink() as host:
            link = inspect.find_link(host, host_name)
            if link is None:
                return ()
            bodies = [
                body for family in codec.FAMILY.values() for body in host.dump(requests.get_routes(family, link.index))
            ]
            found = [route.dst for route, owner in replies.routes(bodies) if owner == link.index]
        return tuple(dst.network_address for dst in found if dst.num_addresses == 1)

    def _make_pair(self, here: End, there: End, host: Netlink, pod: Netlink, descriptor: int) -> Pair | Refusal:
        answer = host.ask([requests.make_pair(here, there, descriptor), requests.get_link(here.name)])
        link = replies.link(answer.replies[1]) if answer.replies else None
        if not answer.failures:
            assert link is not None
            assert link.peer is not None, "a veth has a peer"
            return Pair(link.index, link.peer, new=True)
        failure = answer.failures[0]
        if failure.errno != EEXIST:
            return failure.refusal
        if link is None:
            return _taken(there.name, "the pod")
        if link.group not in (self._group, self._doomed):
            return _taken(here.name, f"the node, in link group {link.group:#x}")
        peer = inspect.find_link(pod, there.name)
        if link.group == self._group and peer and _are_a_pair(link, peer, host, descriptor):
            return Pair(link.index, peer.index, new=False)
        _unless_gone(host, [requests.delete_link(link.index)])
        return self._make_pair(here, there, host, pod, descriptor)


def _are_a_pair(link: replies.Link, there: replies.Link, host: Netlink, descriptor: int) -> bool:
    if (link.index, link.peer) != (there.peer, there.index):
        return False
    answer = host.ask([requests.get_namespace_number(descriptor)])
    return bool(answer.replies) and replies.namespace_number(answer.replies[0]) == link.peer_namespace


def _taken(name: str, where: str) -> Refusal:
    return Refusal(
        Code.INTERFACE_TAKEN,
        f"an interface {name} exists already in {where}, and is not ours",
        "remove it, or give this network another interface name",
    )


def _configure(netlink: Netlink, end: End, index: int, *, new: bool) -> Refusal | None:
    up = requests.bring_up(end, index, restore=not new)
    failures = netlink.ask([up, *requests.configure(end, index)]).failures
    if any(each.errno == EEXIST and each.request.kind == codec.NEWROUTE for each in failures):
        refusal = _foreign_route(netlink, end, index)
        if refusal is not None:
            return refusal
        failures = netlink.ask([up, *requests.configure(end, index, replace=True)]).failures
    return failures[0].refusal if failures else None


def _await_running(pod: Netlink, index: int) -> None:
    """The end that was up first gets its queue from a worker of the kernel's, once the other one is up too, and what it
    sends before that is dropped: of the first packets of a pod, one in thirty. The kernel's lock makes us wait for
    that worker, so hardly ever is there a second look. A link that stays down is not for an ADD to wait for."""
    for pause in _PAUSES:
        if any(replies.is_running(body) for body in pod.ask([requests.get_link(index)]).replies.values()):
            return
        time.sleep(pause)


def _foreign_route(netlink: Netlink, end: End, index: int) -> Refusal | None:
    wanted = {(route.dst, route.priority): route for route in end.routes}
    for version in sorted({route.dst.version for route in end.routes}):
        bodies = netlink.dump(requests.get_routes(codec.FAMILY[version], None))
        for found, owner in replies.routes(bodies):
            route = wanted.get((found.dst, found.priority))
            if route is not None and owner != index:
                other = inspect.find_link(netlink, owner)
                return Refusal(
                    Code.KERNEL_REFUSED,
                    f"{end.name} cannot have the route {route}: {other.name if other else 'another'} has it",
                    "remove that route, or name other `routes` in this network's configuration",
                )
    return None


def _unless_gone(netlink: Netlink, wanted: Sequence[Request]) -> None:
    for failure in netlink.ask(wanted).failures:
        if failure.errno != ENODEV:
            raise OSError(failure.errno, str(failure.refusal))
