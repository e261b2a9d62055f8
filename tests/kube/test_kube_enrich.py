"""Who a record's pod is, where CNI_ARGS did not say all of it."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from reconciler.kube import objects
from reconciler.kube.enrich import completed, pod_of
from statemachine.attachment import Pod, State
from tests.kube import samples
from tests.pure.samples import in_state

RECORD = in_state(State.ADVERTISED)  # 10.244.1.7
UID = RECORD.pod.uid
WEB = objects.pod(samples.pod("web-0", uid=UID, address="10.244.1.7"))
OTHER = objects.pod(samples.pod("web-1", address="10.244.1.8"))


def known(**pod):
    return replace(RECORD, pod=Pod(**pod))


@pytest.mark.parametrize(
    "pod", [{}, {"namespace": "default", "name": "web-0"}, {"uid": UID}], ids=["nothing", "name", "uid"]
)
def test_what_is_missing_is_found_by_what_is_there(pod):
    assert completed(known(**pod), [OTHER, WEB]) == Pod("default", "web-0", UID)


def test_who_is_known_wholly_is_left_as_it_is():
    assert completed(RECORD, [WEB]) is None


def test_labels_come_with_the_pod():
    assert pod_of(RECORD, [OTHER, WEB]).labels == {"app": "web"}


@pytest.mark.parametrize(
    "pods",
    [
        [],
        [OTHER],
        [replace(WEB, phase="Succeeded")],
        [replace(WEB, host_network=True)],
        [WEB, replace(WEB, uid="another", name="web-9")],
    ],
    ids=["no pods", "another address", "finished", "of the node's own network", "two of that address"],
)
def test_an_address_that_does_not_tell_says_nothing(pods):
    assert completed(known(), pods) is None


def test_the_next_pod_of_a_stateful_set_is_not_taken_for_the_old_one():
    successor = replace(WEB, uid="another", addresses=(ip_address("10.244.1.9"),))
    assert completed(known(namespace="default", name="web-0"), [successor]) is None


def test_a_pod_without_an_address_yet_is_known_by_its_name():
    assert completed(known(namespace="default", name="web-0"), [replace(WEB, addresses=())]) is not None


def test_a_static_pod_keeps_the_uid_that_the_runtime_knows():
    mirror = replace(WEB, uid="of the mirror", static_uid=UID)
    assert completed(known(), [mirror]) == Pod("default", "web-0", UID)
    assert completed(known(uid=UID), [mirror]) == Pod("default", "web-0", UID)


def test_nothing_is_written_again_that_did_not_help():
    """A pod that is found but says no more than the record does."""
    nameless = replace(WEB, uid="")
    assert completed(known(namespace="default", name="web-0"), [nameless]) is None
