"""docs/configuration.md tells of exactly the keys that the daemon knows, and its example is valid."""

import orjson

from reconciler import netconf
from reconciler.netconf import NetConf
from reconciler.operate.docs import EXAMPLE
from reconciler.operate.netkeys import IPAM, NETWORK


def test_every_known_key_is_told_of_and_no_other():
    assert {key.name for key in NETWORK} == netconf._KNOWN
    assert {key.name for key in IPAM} == netconf._KNOWN_IPAM


def test_the_example_is_a_valid_configuration_without_unknown_keys():
    listed = orjson.loads(EXAMPLE)
    first = {"cniVersion": listed["cniVersion"], "name": listed["name"], **listed["plugins"][0]}
    parsed = netconf.parse(orjson.dumps(first))
    assert isinstance(parsed, NetConf)
    assert parsed.unknown == ()
