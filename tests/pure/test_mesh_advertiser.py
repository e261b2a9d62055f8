"""When an attachment counts as advertised by the mesh."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import ip_network

from samples import in_state

from cni.spec import Refusal
from reconciler.mesh.advertiser import MeshAdvertiser, hosts
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Chain, Holds, Link, LinkState
from statemachine.attachment import Address, State

POD = replace(in_state(State.WIRED), addresses=(Address("10.244.1.7/24", "10.244.1.1", "10.244.1.0/24"),))
DUAL = replace(POD, addresses=(*POD.addresses, Address("fd00:1::7/64", "fd00:1::1", "fd00:1::/64")))
UNAPPROVED = Refusal(Trouble.NOT_APPROVED, "not approved", "approve it")


def chain(prefix, holds=Holds.YES):
    trouble = None if holds is Holds.YES else UNAPPROVED
    return Chain(ip_network(prefix), {link: LinkState(holds, "", trouble) for link in Link})


def advertiser(*chains, told=None):
    made = MeshAdvertiser(lambda: told.append("changed") if told is not None else None)
    made.chains = chains
    return made


def advertise(made, record=POD):
    return asyncio.run(made.advertise(record))


def test_before_the_first_look_nothing_is_advertised_and_nothing_fails():
    made = MeshAdvertiser(lambda: None)
    assert advertise(made).code == Trouble.NOT_ANNOUNCED


def test_the_covering_prefix_decides():
    assert advertise(advertiser(chain("10.244.1.0/24"))) is None
    assert advertise(advertiser(chain("10.244.1.0/24", Holds.NO))) == UNAPPROVED
    assert "lies in no prefix" in advertise(advertiser(chain("10.244.2.0/24"))).msg


def test_every_family_must_be_in_force():
    assert advertise(advertiser(chain("10.244.1.0/24"), chain("fd00:1::/64")), DUAL) is None
    assert advertise(advertiser(chain("10.244.1.0/24"), chain("fd00:1::/64", Holds.NO)), DUAL) == UNAPPROVED
    assert "fd00:1::7" in advertise(advertiser(chain("10.244.1.0/24")), DUAL).msg


def test_one_prefix_in_force_is_enough_where_several_cover_the_address():
    assert advertise(advertiser(chain("10.244.1.7/32", Holds.NO), chain("10.244.1.0/24"))) is None


def test_the_loop_is_told_that_an_attachment_came_or_went():
    told = []
    made = advertiser(chain("10.244.1.0/24"), told=told)
    advertise(made)
    assert asyncio.run(made.withdraw(POD)) is None
    assert told == ["changed", "changed"]


def test_hosts_are_the_single_addresses():
    assert hosts(DUAL) == set(map(ip_network, ("10.244.1.7/32", "fd00:1::7/128")))
