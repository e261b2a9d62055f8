from ipaddress import ip_network

from reconciler.node.table import Table, ruleset, run_nft
from reconciler.node.wish import Problem

POD4, POD6, CLUSTER = ip_network("10.244.1.0/24"), ip_network("fd00:1::/64"), ip_network("10.244.0.0/16")


class FakeNft:
    """Answers by the first line of a script; what it does not know, it takes."""

    def __init__(self, **answers: str | Problem) -> None:
        self.answers = {"list tables inet": "", **answers}
        self.scripts: list[str] = []

    def __call__(self, script: str) -> str | Problem:
        self.scripts.append(script)
        return self.answers.get(script.splitlines()[0], "")


def test_pods_count_as_part_of_the_cluster():
    text = ruleset("headcni", [POD4], [], masquerade=True)
    assert "ip saddr { 10.244.1.0/24 } ip daddr != { 10.244.1.0/24, 169.254.0.0/16, 224.0.0.0/4," in text


def test_overlapping_networks_become_one_interval():
    assert "daddr != { 10.244.0.0/16, 169.254.0.0/16," in ruleset("headcni", [POD4], [CLUSTER], masquerade=True)


def test_each_family_gets_its_own_rule():
    text = ruleset("headcni", [POD4, POD6], [], masquerade=True)
    assert "ip saddr { 10.244.1.0/24 }" in text
    assert "ip6 saddr { fd00:1::/64 } ip6 daddr != { fd00:1::/64, fe80::/10, ff00::/8 }" in text


def test_a_family_without_pods_gets_no_rule():
    assert "ip6" not in ruleset("headcni", [POD4], [], masquerade=True)


def test_no_masquerade_means_a_chain_without_rules():
    text = ruleset("headcni", [POD4], [], masquerade=False)
    assert "flush chain inet headcni leaving_cluster" in text
    assert "add rule" not in text


def test_no_packet_is_marked():
    assert "mark" not in ruleset("headcni", [POD4, POD6], [CLUSTER], masquerade=True)


def test_a_foreign_table_of_our_name_is_not_touched():
    nft = FakeNft(
        **{
            "list tables inet": "table inet headcni\n",
            "list chain inet headcni owned_by_headcni": Problem("nft refused: No such file", ""),
        }
    )
    table = Table("headcni", nft)
    assert table.write([POD4], [], True) == ()
    assert "not ours" in table.problems()[0].what
    assert "not ours" in str(table.delete()[0])
    assert all(script.startswith("list ") for script in nft.scripts)


def test_a_missing_nft_names_the_package(monkeypatch):
    monkeypatch.setattr("reconciler.node.table.shutil.which", lambda *_, **__: None)
    table = Table("headcni", run_nft)
    assert table.write([POD4], [], True) == ()
    assert "apt-get install nftables" in table.problems()[0].cure


def test_a_table_that_cannot_be_deleted_is_a_problem_not_a_deed():
    refusal = Problem("nft refused: no", "")
    ours = {"list tables inet": "table inet headcni\n", "list chain inet headcni owned_by_headcni": "…"}
    assert Table("headcni", FakeNft(**ours, **{"delete table inet headcni": refusal})).delete() == (refusal,)
    assert Table("headcni", FakeNft(**{"list tables inet": refusal})).delete() == (refusal,)


def test_a_refusal_lasts_until_the_next_write():
    nft = FakeNft(**{"add table inet headcni": Problem("nft refused: no", "")})
    table = Table("headcni", nft)
    table.write([POD4], [], True)
    assert table.problems()[0].what == "nft refused: no"
    del nft.answers["add table inet headcni"]
    table.write([POD4], [], True)
    assert table.problems() == ()
