"""The addresses of `deploy/deploy-with-helm.sh`, which has only bash, against those of Python."""

from __future__ import annotations

import random
import subprocess
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

ADDRESSES = Path(__file__).parents[2] / "deploy" / "with-helm" / "addresses.sh"
CASES = 60


def bash(*lines):
    script = "\n".join([f"source {ADDRESSES}", *lines])
    done = subprocess.run(("bash", "-eu", "-c", script), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def asked(name, pairs):
    return [
        answer == "yes" for answer in bash(*(f"if {name} {a} {b}; then echo yes; else echo no; fi" for a, b in pairs))
    ]


def networks(rng, version):
    """Some inside of others, some beside them; written as short as they can be, or with all their zeros."""
    width = 32 if version == 4 else 128
    base = rng.getrandbits(width)
    for _ in range(CASES):
        length = rng.randrange(width + 1)
        number = (base if rng.random() < 0.7 else rng.getrandbits(width)) >> (width - length) << (width - length)
        network = ip_network((number, length))
        yield network, rng.choice((network.compressed, network.exploded, network.compressed.upper()))


def expected(version):
    rng = random.Random(version)
    made = list(networks(rng, version))
    return [(rng.choice(made), rng.choice(made)) for _ in range(CASES)]


@pytest.mark.parametrize("version", [4, 6])
def test_networks_overlap_or_not_as_they_do_elsewhere(version):
    pairs = expected(version)
    assert asked("overlap", [(a[1], b[1]) for a, b in pairs]) == [a[0].overlaps(b[0]) for a, b in pairs]


@pytest.mark.parametrize("version", [4, 6])
def test_one_is_within_another_or_not_as_elsewhere(version):
    pairs = expected(version)
    assert asked("within", [(a[1], b[1]) for a, b in pairs]) == [a[0].subnet_of(b[0]) for a, b in pairs]


def test_families_never_overlap():
    assert asked("overlap", [("0.0.0.0/0", "::/0"), ("::/0", "10.0.0.0/8")]) == [False, False]


GOOD = ("0.0.0.0/0", "255.255.255.255/32", "10.244.1.7/24", "::/0", "::1/128", "fe80::/10", "1:2:3:4:5:6:7:8/64",
        "1::8/128", "1:2:3:4:5:6:7::/112", "::2:3:4:5:6:7:8/128", "FD7A:115c:a1e0::/48", "1:0:0:2::3/64")  # fmt: skip
BAD = ("10.244.0.0", "10.244.0.0/33", "10.244.0.256/24", "10.244.0/24", "10.244.0.0.0/24", "010.0.0.0/8", "a/8", "/8",
       "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/8/8", ":/0", ":::/0", "1::2::3/64", "1:2:3:4:5:6:7/64", "::/129",
       "1:2:3:4:5:6:7:8:9/64", "1:2:3:4::5:6:7:8/64", ":1:2:3:4:5:6:7:8/64", "12345::/64", "::ffff:10.0.0.1/128",
       "1:2:3:4:5:6:7:/64", ":1:2:3:4:5:6:7/64")  # fmt: skip


def test_what_is_no_cidr_is_recognised():
    ask = [f"if cidr_bits {each} >/dev/null; then echo yes; else echo no; fi" for each in (*GOOD, *BAD)]
    assert dict(zip((*GOOD, *BAD), bash(*ask), strict=True)) == {
        **dict.fromkeys(GOOD, "yes"),
        **dict.fromkeys(BAD, "no"),
    }


def test_bits_beyond_the_prefix_are_recognised():
    texts = [*GOOD, "10.244.0.1/16", "10.244.0.0/15", "fd00::1/64"]
    ask = [f"if has_host_bits {each}; then echo yes; else echo no; fi" for each in texts]
    wanted = ["yes" if ip_interface(each).ip != ip_interface(each).network.network_address else "no" for each in texts]
    assert bash(*ask) == wanted


def test_an_address_alone_is_a_network_of_one():
    assert bash("single 192.0.2.1", "single fd00::1") == ["192.0.2.1/32", "fd00::1/128"]
