"""The daemon is killed by SIGKILL at every rename, unlink, write and netlink request of a real ADD and of a real DEL,
and the plugin at each of its system calls that touch files.

The killer is strace: `--inject=CALL:signal=KILL:when=N` strikes at the entry of the N-th such call, N = 1, 2, … until
the request ends by itself. "After call N" is "before call N+1": nothing outside the process happens in between. strace
counts for each thread, so each thread is struck by itself: the event loop, the one that speaks netlink, the others.
Which is which is learnt from an undisturbed request to the same daemon just before.
"""

import itertools
import os
import re
import signal
import subprocess
from collections import Counter
from dataclasses import dataclass, fields

import pytest

from fixtures.lab import Lab
from fixtures.processes import PLUGIN
from fixtures.site import Site, wait_until
from fixtures.snapshot import Snapshot

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(180)]

FILES = ("rename", "renameat2", "unlink", "write")
NETLINK = ("sendto",)
STRIKES = {"loop": FILES + NETLINK, "netlink": NETLINK, "others": NETLINK}
PLUGINS = "%file,write"
SEEN = re.compile(r"^(?:(?P<thread>\d+) +)?(?P<call>\w+)\((?P<rest>.*)$")
LINK_REQUEST = re.compile(r"nlmsg_type=(RTM_(NEW|DEL|GET|SET)LINK|0x1[0-3]\b)")  # strace does not always know the name


@pytest.fixture(scope="module")
def node():
    with Lab(1) as lab:
        lab.nodes[0].run("sysctl", "-qw", "net.ipv6.conf.default.addr_gen_mode=1")  # nothing settles later
        yield lab.nodes[0]


@pytest.fixture
def site(node, tmp_path):
    with Site(node, tmp_path / "state", "--log-level", "error") as running:
        running.conf["ipam"].update(allocation_strategy="dense-pack", cooldown_seconds=0)
        yield running


class Strace:
    """Attached to threads of a process."""

    def __init__(self, threads, output, calls, *options):
        attach = [word for thread in threads for word in ("-p", str(thread))]
        command = ("strace", "-o", str(output), "-e", "trace=" + ",".join(calls), *options, *attach)
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        for _ in threads:
            line = self._process.stderr.readline()
            assert "attached" in line, line

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.communicate()


def threads_of(pid):
    return [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]


def observed(path):
    return [match.groupdict() for match in map(SEEN.match, path.read_text().splitlines()) if match]


def learn_roles(daemon, request, trace):
    """Runs the request undisturbed; which thread did what."""
    with Strace([daemon.pid], trace, FILES + NETLINK, "-f", "-s", "300"):
        request()
    netlink = {int(each["thread"]) for each in observed(trace) if LINK_REQUEST.search(each["rest"])} - {daemon.pid}
    others = set(threads_of(daemon.pid)) - netlink - {daemon.pid}
    return {"loop": {daemon.pid}, "netlink": netlink, "others": others}


@dataclass(frozen=True)
class Ending:
    """What must be the same, whatever was killed. Numbers that the kernel draws are left out."""

    node: Snapshot
    pod: Snapshot
    records: tuple
    answer: object

    def differences(self, other):
        told = [] if (self.records, self.answer) == (other.records, other.answer) else [self, other]
        return [*told, *self.node.difference(other.node), *self.pod.difference(other.pod)]


DRAWN = re.compile(r'"(?:ifindex|link_index|link_netnsid)": \d+|link-netns \S+')


def ending(site, answer):
    site.wait_quiet()
    assert site.wrongs() == []
    records = tuple((r.key, r.state, r.answered, r.addresses, r.routes, r.dns) for r in site.records().values())
    return Ending(comparable(site.node), comparable(site.pod("box")), records, (answer.code, answer.json))


def comparable(netns):
    snapshot = netns.snapshot()
    lines = {each.name: getattr(snapshot, each.name) for each in fields(snapshot)}
    return Snapshot(**{name: tuple(sorted(DRAWN.sub("", line) for line in some)) for name, some in lines.items()})


def gone(site):
    return not site.records() and not site.host_links()


def settle(site):
    """status.json tells the latest, so the event loop has nothing to write before something happens."""
    wait_until(lambda: site.daemon.status()["counts"] == states_on_disk(site), 3)


def states_on_disk(site):
    counts = {}
    for record in site.records().values():
        counts[record.state.value] = counts.get(record.state.value, 0) + 1
    return counts


def killed_during(site, target, call, when, verb, trace):
    """Starts the verb under the killer; the call, and whether the killer struck."""
    inject = f"inject={call}:signal=KILL:when={when}"
    with Strace(target, trace, (call,), "-e", inject):
        request = site.start(verb)
        wait_until(lambda: not site.daemon.running or finished(site, request, verb), 15, site.daemon.log_tail)
    return request, not site.daemon.running  # the killer is gone: it may have struck at what came after the request


def finished(site, request, verb):
    if request.process.poll() is None:
        return False
    return site.quiet() and (verb == "ADD" or gone(site))


def strike_everywhere(site, verb, prepare, conclude, trace):
    """The kill points by role and call, and what `conclude` found wrong after which of them."""
    points, wrongs = {}, []
    for role, calls in STRIKES.items():
        for call in calls:
            for when in itertools.count(1):
                roles = prepare(trace)
                settle(site)
                request, struck = killed_during(site, roles[role], call, when, verb, trace)
                if struck:
                    site.daemon.start()
                wrongs += [f"{role}, {call} {when}: {wrong}" for wrong in conclude(request)]
                if not struck:
                    break
                points[role, call] = when
    return points, wrongs


def test_a_daemon_killed_anywhere_in_an_add_ends_as_if_it_was_not(site, tmp_path, record_property):
    empty = site.node.snapshot()
    undisturbed = ending(site, site.add())
    site.delete()
    wait_until(lambda: gone(site))

    def prepare(trace):
        def warm_up():
            site.add()
            site.delete()
            wait_until(lambda: gone(site))

        return learn_roles(site.daemon, warm_up, trace)

    def conclude(request):
        answer = request.wait()
        site.daemon.wait_ready()
        wrongs = [*undisturbed.differences(ending(site, answer)), *unread_answers(site)]
        site.delete()
        wait_until(lambda: gone(site))
        return [*wrongs, *empty.difference(site.node.snapshot())]

    report(record_property, "ADD", *strike_everywhere(site, "ADD", prepare, conclude, tmp_path / "trace"))


def test_a_daemon_killed_anywhere_in_a_delete_leaves_nothing(site, tmp_path, record_property):
    empty = site.node.snapshot()

    def prepare(trace):
        def add():
            site.add()
            site.wait_quiet()

        return learn_roles(site.daemon, add, trace)

    def conclude(request):
        answer = request.wait()
        site.daemon.wait_ready()
        site.wait_quiet()
        wait_until(lambda: gone(site))
        list(unread_answers(site))  # a DEL does not wait where no daemon lives; the daemon sweeps its answer later
        failed = [] if answer.code == 0 else [answer]
        return [*failed, *site.wrongs(), *empty.difference(site.node.snapshot())]

    report(record_property, "DEL", *strike_everywhere(site, "DEL", prepare, conclude, tmp_path / "trace"))


def unread_answers(site):
    """The plugin has ended, so there is nobody to read them."""
    for name in site.files("results"):
        (site.state_dir / "results" / name).unlink()
        yield f"results/{name} was left"


@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_a_plugin_killed_anywhere_leaves_nothing_that_a_later_delete_does_not_remove(
    site, verb, tmp_path, record_property
):
    empty = site.node.snapshot()
    points = plugin_points(site, verb, tmp_path / "trace")
    struck = 0
    for call, when in points:
        if verb == "DEL":
            site.add()
        inject = ("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={when}")
        answer = site.call(verb, command=("strace", "-o", "/dev/null", *inject, *PLUGIN))
        assert answer.code in (0, -signal.SIGKILL), (call, when)  # 0: it had to look less often than it did before
        struck += answer.code != 0
        site.wait_quiet()
        assert site.wrongs() == [], (call, when)
        site.delete()
        wait_until(lambda: gone(site))
        for directory in ("results", "tmp"):  # swept later
            for name in site.files(directory):
                (site.state_dir / directory / name).unlink()
        assert empty.difference(site.node.snapshot()) == (), (call, when)
    record_property("kill_points", struck)
    print(f"plugin, {verb}: {struck} kill points")
    assert struck >= 8


def plugin_points(site, verb, trace):
    """Its calls that name a file of ours, and what it writes, from an undisturbed run."""
    if verb == "DEL":
        site.add()
    site.call(verb, command=("strace", "-o", str(trace), "-e", f"trace={PLUGINS}", *PLUGIN))
    site.delete()
    wait_until(lambda: gone(site))
    counts, points = Counter(), []
    for each in observed(trace):
        counts[each["call"]] += 1
        if str(site.state_dir) in each["rest"] or each["call"] == "write":
            points.append((each["call"], counts[each["call"]]))
    return points


def report(record_property, verb, points, wrongs):
    total = sum(points.values())
    record_property("kill_points", total)
    print(f"{verb}: {total} kill points:", ", ".join(f"{role} {call} {n}" for (role, call), n in points.items()))
    assert not wrongs, "\n".join(map(str, wrongs))
    assert points["loop", "rename"] + points["loop", "renameat2"] >= 3
    assert points["netlink", "sendto"] >= 2
