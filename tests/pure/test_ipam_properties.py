"""Random histories against a model that is too simple to be wrong: dictionaries, and a look at every address.

The model knows the rules, not the strategies: it says which addresses may be given, never which one will be.
"""

import random
from ipaddress import ip_address, ip_network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cni.spec import Code, Refusal
from reconciler.ipam.ledger import Allocation, Ledger
from reconciler.ipam.pool import PoolSpec, Strategy
from reconciler.ipam.strategies import Sequential

COOLDOWN = 30


def pools(strategy):
    def pool(subnet, **fields):
        return PoolSpec(ip_network(subnet), strategy=strategy, **fields)

    narrow = pool("10.1.0.0/29", range_start=ip_address("10.1.0.3"))
    return [
        (pool("10.1.0.0/28", exclude=(ip_network("10.1.0.4/31"),)),),
        (narrow,),  # overlaps the first
        (narrow, pool("fd00::/126")),
        (pool("10.1.0.8/30"), pool("fd00::/125", gateway=ip_address("fd00::7"))),
    ]


EVERYWHERE = [*ip_network("10.1.0.0/28"), *ip_network("fd00::/125")]
owners = st.sampled_from([f"c{n}@eth0" for n in range(12)])
addresses = st.sampled_from(EVERYWHERE)
choices = st.integers(0, 3)


class Histories(RuleBasedStateMachine):
    @initialize(strategy=st.sampled_from(Strategy), seed=st.integers(0, 3))
    def start(self, strategy, seed):
        self.pools, self.seed = pools(strategy), seed
        self.time = 0.0
        self.live: dict = {}  # owner → its addresses, as the records have it
        self.closed: dict = {}  # address → when it was last released
        self.foreign: dict = {}
        self.ledger = self.fresh()

    def fresh(self):
        return Ledger(lambda: self.time, random.Random(self.seed), lambda: self.foreign)

    def taken(self):
        return {address for held in self.live.values() for address in held}

    def givable(self, spec):
        """→ (rested, resting) addresses of a pool that neither a pod nor the node has."""
        taken = self.taken()
        idle = [a for a in spec.subnet if spec.why_not(a) is None and a not in taken and a not in self.foreign]
        resting = {a for a in idle if self.time - self.closed.get(a, -COOLDOWN) < COOLDOWN}
        return set(idle) - resting, resting

    @rule(owner=owners, choice=choices, asked=st.lists(addresses, max_size=2, unique=True) | st.just([]))
    def add(self, owner, choice, asked):
        specs = self.pools[choice]
        answer = self.ledger.allocate(owner, specs, asked)
        if owner in self.live:
            self.check_again(owner, specs, asked, answer)
        elif isinstance(answer, Refusal):
            self.check_refusal(specs, asked, answer)
        else:
            self.check_allocation(specs, asked, answer)
            self.live[owner] = answer.addresses

    def check_again(self, owner, specs, asked, answer):
        held = self.live[owner]
        fits = all(any(each in spec.subnet for each in held) for spec in specs)
        wanted = [each for each in asked if each in held and any(each in spec.subnet for spec in specs)]
        one_each = len({address.version for address in asked}) == len(asked)
        assert isinstance(answer, Allocation) == (fits and wanted == asked and one_each)
        if isinstance(answer, Allocation):
            assert set(asked) <= set(answer.addresses) <= set(held)

    def check_refusal(self, specs, asked, answer):
        if answer.code == Code.POOL_EMPTY:
            assert any(self.givable(spec) == (set(), set()) for spec in specs)
        else:
            assert answer.code == Code.ADDRESS_REFUSED
            one_each = len({address.version for address in asked}) == len(asked)
            every = set().union(*(set().union(*self.givable(spec)) for spec in specs))
            assert asked
            assert not (one_each and set(asked) <= every)

    def check_allocation(self, specs, asked, answer):
        assert len(answer.addresses) == len(specs)
        assert set(asked) <= set(answer.addresses)
        for spec, address in zip(specs, answer.addresses, strict=True):
            rested, resting = self.givable(spec)
            assert address in rested | resting
            if address in asked:
                continue
            assert (address in answer.early_reuse) == (address in resting)
            if address in resting:
                assert not rested
                assert self.closed[address] == min(self.closed[each] for each in resting)
        assert all(self.foreign[conflict.address] == conflict.holder for conflict in answer.conflicts)

    @rule(owner=owners)
    def delete(self, owner):
        self.ledger.release(owner)
        self.closed |= dict.fromkeys(self.live.pop(owner, ()), self.time)

    @rule(owner=owners, address=addresses)
    def another_ipam_plugin_gave(self, owner, address):
        holder = next((other for other, held in self.live.items() if address in held), owner)
        clashes = self.ledger.claim(owner, [address])
        assert [clash.holder for clash in clashes] == ([] if holder == owner else [holder])
        if holder == owner:
            self.live[owner] = tuple(dict.fromkeys((*self.live.get(owner, ()), address)))

    @rule(seconds=st.sampled_from([1, 10, COOLDOWN, 5000]))
    def time_passes(self, seconds):
        self.time += seconds

    @rule(foreign=st.sets(addresses, max_size=4))
    def the_node_changes(self, foreign):
        self.foreign = dict.fromkeys(foreign, "address of eth1")

    @rule(order=st.randoms(use_true_random=False))
    def the_daemon_restarts(self, order):
        self.ledger = self.fresh()
        replays = [(self.ledger.claim, owner, held) for owner, held in self.live.items()]
        replays += [(self.ledger.cool, address, at) for address, at in self.closed.items()]
        order.shuffle(replays)
        for replay, *arguments in replays:
            assert not replay(*arguments)

    @rule(seconds=st.integers(COOLDOWN, 99), choice=choices)
    @precondition(lambda self: not self.foreign)
    def every_address_can_be_given(self, seconds, choice):
        """Nothing leaks: the last address of a pool is found, by whatever order."""
        self.time += seconds
        spec = self.pools[choice][0]
        rested, _ = self.givable(spec)
        given = [self.ledger.allocate(f"all{n}@eth0", [spec]) for n in range(len(rested))]
        assert {answer.addresses[0] for answer in given} == rested
        assert self.ledger.allocate("more@eth0", [spec]).code == Code.POOL_EMPTY
        for n in range(len(rested)):
            self.ledger.release(f"all{n}@eth0")
        self.closed |= dict.fromkeys(rested, self.time)

    @invariant()
    def the_ledger_holds_what_the_records_say(self):
        if not hasattr(self, "ledger"):
            return
        for address in EVERYWHERE:
            owner = self.ledger.owner_of(address)
            assert owner == next((owner for owner, held in self.live.items() if address in held), None)
        for stats in self.ledger.stats():
            assert stats.free + stats.cooling + len(stats.conflicts) + stats.held == stats.size
            assert stats.size + stats.reserved == stats.subnet.num_addresses
            mine = [spec for pool in self.pools for spec in pool if spec.subnet == stats.subnet]
            assert stats.held in {sum(spec.why_not(each) is None for each in self.taken()) for spec in mine}


class ForgetfulHistories(Histories):
    """The same, with a sequential order whose memory is smaller than the pool."""

    @initialize(strategy=st.just(Strategy.SEQUENTIAL), seed=st.just(0))
    def start(self, strategy, seed):
        self.memory, Sequential.MEMORY = Sequential.MEMORY, 2
        super().start(strategy, seed)

    def teardown(self):
        Sequential.MEMORY = getattr(self, "memory", Sequential.MEMORY)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestForgetfulHistories = ForgetfulHistories.TestCase
TestForgetfulHistories.settings = settings(max_examples=40, stateful_step_count=50, deadline=None)
