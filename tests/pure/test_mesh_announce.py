"""AdvertiseRoutes, shared with others: theirs stay as they are, ours never leak, whatever happens in between.

`Histories` drives the steps as a daemon does, one primitive at a time (a look, a save, a write, a look at the bus),
with kills and other people's writes between any two, against a model of tailscaled that is a list and its bus.
"""

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cni.spec import Refusal
from reconciler.mesh.announce import Edit, Forget, Write, lost_between, merge, next_step
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Prefs
from reconciler.mesh.record import MeshRecord, decode, encode

URL = "http://192.0.2.1:8080"
A, B, A6, POD = map(ip_network, ["10.244.1.0/24", "10.244.2.0/24", "fd00:10:244:1::/64", "10.244.1.7/32"])
EXIT, EXIT6, LAN = "0.0.0.0/0", "::/0", "192.0.2.0/24"


def texts(networks):
    return {str(each) for each in networks}


def prefs(*routes, url=URL):
    return Prefs(control_url=url, advertise=routes)


def record(*announced, url=URL):
    return MeshRecord(url, frozenset(announced))


# --- the merge


@pytest.mark.parametrize(
    ("current", "wanted", "recorded", "routes"),
    [
        ([], [A6, POD, A], [], [str(A), str(POD), str(A6)]),
        ([EXIT, LAN, EXIT, EXIT6], [A], [], [EXIT, LAN, EXIT, EXIT6, str(A)]),
        ([str(A), LAN], [A], [A], [str(A), LAN]),
        ([str(A), LAN, str(B)], [B], [A, B], [LAN, str(B)]),
        ([LAN, str(A), EXIT], [B], [A], [LAN, EXIT, str(B)]),
        ([LAN, str(A)], [], [], [LAN, str(A)]),
        (["10.244.1.9/24"], [A], [], ["10.244.1.9/24"]),
        (["FD00:10:244:1:0::/64"], [A6], [], ["FD00:10:244:1:0::/64"]),
        (["10.244.1.9/24", str(A)], [], [A], ["10.244.1.9/24"]),
        (["nonsense", ""], [A], [], ["nonsense", "", str(A)]),
        ([EXIT], [], [A], [EXIT]),
    ],
)
def test_the_list_as_it_must_be(current, wanted, recorded, routes):
    merged = merge(current, wanted, recorded)
    assert list(merged.routes) == routes
    assert merge(merged.routes, wanted, [*recorded, *merged.add]).routes == merged.routes
    assert texts(merged.add) == set(routes) - set(current)
    assert texts(merged.withdraw) == set(current) - set(routes)


@pytest.mark.parametrize(
    ("current", "recorded", "borrowed"),
    [
        ([], [], ()),
        ([str(A)], [A], ()),
        ([str(A)], [], (A,)),
        (["10.244.1.9/24"], [], (A,)),
        (["10.244.1.9/24"], [A], (A,)),
    ],
)
def test_what_stood_there_before_us_is_borrowed(current, recorded, borrowed):
    assert merge(current, [A], recorded).borrowed == borrowed


# --- the steps


@pytest.mark.parametrize(
    ("now", "known", "wanted", "step"),
    [
        (prefs(LAN), MeshRecord(), [A], Write(record(A))),
        (prefs(LAN), record(A), [A], Edit(merge([LAN], [A], [A]))),
        (prefs(LAN, str(A)), record(A), [A], None),
        (prefs(LAN, str(A)), record(A), [B], Write(record(A, B))),
        (prefs(LAN, str(A)), record(A, B), [B], Edit(merge([LAN, str(A)], [B], [A, B]))),
        (prefs(LAN, str(B)), record(A, B), [B], Forget(record(B))),
        (prefs(LAN, str(B)), record(B), [], Edit(merge([LAN, str(B)], [], [B]))),
        (prefs(LAN), record(B), [], Forget(record())),
        (prefs(LAN), record(), [], None),
        (prefs(str(A)), MeshRecord(), [A], None),
        (prefs(), record(A), [A], Edit(merge([], [A], [A]))),
    ],
)
def test_record_then_announce_then_withdraw_then_forget(now, known, wanted, step):
    assert next_step(now, known, wanted) == step


def test_preferences_in_the_record_stay():
    known = replace(record(A), prefs={"RouteAll": "something"})
    assert next_step(prefs(), known, []).record.prefs == known.prefs


@pytest.mark.parametrize("wanted", [[], [A], [B]])
def test_of_another_server_nothing_is_judged(wanted):
    refusal = next_step(prefs(str(A), url="https://hs.example.com"), record(A), wanted)
    assert isinstance(refusal, Refusal)
    assert refusal.code == Trouble.JOINED_ELSEWHERE
    assert URL in refusal.msg
    assert "https://hs.example.com" in refusal.msg


def test_a_record_that_says_nothing_is_of_every_server():
    known = record(url="http://192.0.2.99")
    assert next_step(prefs(), known, [A]) == Write(record(A))


def test_a_withdrawn_prefix_that_somebody_wrote_back_is_withdrawn_again_before_it_is_forgotten():
    assert isinstance(next_step(prefs(str(A), LAN), record(A, B), [B]), Edit)


# --- what was lost between look and write

a, b, x, y = str(A), str(B), "192.0.2.0/25", "192.0.2.128/25"


@pytest.mark.parametrize(
    ("read", "seen", "wrote", "right"),
    [
        ((LAN,), [(LAN, a)], (LAN, a), None),
        ((LAN,), [(LAN, x), (LAN, a)], (LAN, a), (LAN, x, a)),
        ((LAN,), [(LAN, x), (x, LAN, y), (LAN, a)], (LAN, a), (x, LAN, y, a)),
        ((LAN,), [(LAN, x), (LAN,), (LAN, a)], (LAN, a), None),  # taken back by who wrote it
        ((LAN,), [(), (LAN, a)], (LAN, a), (a,)),
        ((LAN, a), [(LAN, a, x), (LAN, b)], (LAN, b), (LAN, x, b)),
        ((LAN, a), [(x,), (LAN, a, b)], (LAN, a, b), (x, b)),  # a was taken too, and the next look brings it back
        ((LAN,), [(LAN, x), (LAN, a), (LAN, a, y)], (LAN, a), (LAN, x, a, y)),
        ((LAN, x), [(LAN,), (LAN, x, a), (LAN, x, a, y)], (LAN, x, a), (LAN, a, y)),
        ((LAN,), [(LAN, x), (LAN, a), (LAN, x, a)], (LAN, a), None),  # written again by who wrote it
        ((LAN,), [(LAN, a), (LAN, a, x)], (LAN, a), None),  # after us: nothing lost
        ((LAN,), [(LAN, x)], (LAN, a), None),  # the bus has not told of ours yet
        ((LAN,), [], (LAN, a), None),
        ((LAN, x), [(LAN,), (LAN, x), (LAN, x, a)], (LAN, x, a), None),  # told late, of before our look
    ],
)
def test_what_our_write_undid_is_found(read, seen, wrote, right):
    assert lost_between(read, seen, wrote) == right


# --- histories

WISHES = [(A,), (A, A6), (B,), (B, A6), (A, POD), ()]
FOREIGN = [EXIT, EXIT6, LAN, x, y, "fd00:10::/48"]
entries = st.sampled_from(FOREIGN)


class Histories(RuleBasedStateMachine):
    @initialize(foreign=st.lists(entries, max_size=3))
    def begin(self, foreign):
        self.routes = tuple(foreign)
        self.bus = []  # every list that was written, in order
        self.foreign = list(foreign)  # what foreigners wrote, and nothing else
        self.disk = None
        self.wanted = ()
        self.daemon = None
        self.undone = False  # our write undid a foreign one, and the daemon has not looked at the bus yet
        self.crossed = False  # somebody wrote in just that instant: all is kept, but where it stands is not

    # tailscaled, and the record

    def write(self, routes):
        self.routes = tuple(routes)
        self.bus.append(self.routes)

    @property
    def record(self):
        return decode(self.disk) if self.disk else MeshRecord()

    def strangers(self):
        ours = texts(self.record.announced)
        return [entry for entry in self.routes if entry in self.foreign or entry not in ours]

    def kept(self, routes):
        return sorted(routes) == sorted(self.foreign) if self.crossed else routes == self.foreign

    # the daemon: each `yield` is an instant at which it may be killed, and others write

    def work(self, wanted):
        record = self.record
        while True:
            told, read = len(self.bus), self.routes
            yield
            step = next_step(prefs(*read), record, wanted)
            if step is None:
                return
            if isinstance(step, Edit):
                yield from self.edit(read, told, step.merge.routes)
            else:
                record = step.record
                self.disk = encode(record)
            yield

    def edit(self, read, told, routes):
        while routes is not None:
            self.write(routes)
            self.undone = not self.kept(self.strangers())
            yield
            seen = self.bus[told:]
            wrote, told = routes, len(self.bus)
            routes, read = lost_between(read, seen, wrote), seen[-1]
            if routes is not None:
                yield
        self.undone = False

    def advance(self):
        if next(self.daemon, "done") == "done":
            self.daemon = None

    def until_quiet(self, wanted):
        if self.daemon is None:
            self.daemon = self.work(wanted)
        for _ in range(100):
            if self.daemon is None:
                break
            self.advance()
        assert self.daemon is None, "never quiet"

    @precondition(lambda self: self.daemon is None)
    @rule(wanted=st.sampled_from(WISHES))
    def start(self, wanted):
        self.wanted = wanted
        self.daemon = self.work(wanted)

    @precondition(lambda self: self.daemon is not None)
    @rule(steps=st.integers(1, 4))
    def go_on(self, steps):
        for _ in range(steps):
            if self.daemon is not None:
                self.advance()

    @precondition(lambda self: self.daemon is not None and not self.undone)
    @rule()
    def kill(self):
        """Not while a foreign write is undone: only this daemon knows of it, as announce.py admits."""
        self.daemon = None

    # foreigners: they read, change and write in one

    @rule(entry=entries, first=st.booleans())
    def add(self, entry, first):
        if entry not in self.foreign:
            self.crossed = self.crossed or self.undone
            self.foreign.insert(0 if first else len(self.foreign), entry)
            self.write([entry, *self.routes] if first else [*self.routes, entry])

    @rule(entry=entries | st.sampled_from(sorted(texts([A, B, A6]))))
    def remove(self, entry):
        if entry in self.foreign:
            self.foreign = [each for each in self.foreign if each != entry]
            self.write(each for each in self.routes if each != entry)

    @precondition(lambda self: not self.undone)
    @rule(routes=st.lists(entries, max_size=3))
    def set_all(self, routes):
        """`tailscale set --advertise-routes`, by somebody who knows nothing of us."""
        self.foreign = list(routes)
        self.crossed = False
        self.write(routes)

    @precondition(lambda self: self.daemon is None)
    @rule(prefix=st.sampled_from([A, B, A6]))
    def announce_what_we_may_want(self, prefix):
        if prefix not in self.record.announced and str(prefix) not in self.routes:
            self.foreign.append(str(prefix))
            self.write([*self.routes, str(prefix)])

    # what holds

    @invariant()
    def nothing_is_in_the_list_that_is_neither_theirs_nor_recorded(self):
        assert set(self.routes) - set(self.foreign) <= texts(self.record.announced) or self.undone

    @invariant()
    def what_foreigners_wrote_is_there_as_they_wrote_it(self):
        assert self.kept(self.strangers()) or self.undone

    @precondition(lambda self: not self.undone)
    @rule(wanted=st.sampled_from(WISHES))
    def once_quiet_ours_is_what_is_wanted(self, wanted):
        self.daemon = None
        self.until_quiet(wanted)
        assert self.kept(self.strangers())
        assert set(self.routes) == set(self.foreign) | texts(wanted)
        assert self.record.announced <= set(wanted)
        assert texts(self.record.announced) >= texts(wanted) - set(self.foreign)

    def teardown(self):
        """An uninstall."""
        if not hasattr(self, "foreign"):
            return
        if self.daemon is not None:
            self.until_quiet(self.wanted)
        self.until_quiet(())
        assert self.kept(list(self.routes))
        assert self.record.announced == frozenset()


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=200, stateful_step_count=40)
