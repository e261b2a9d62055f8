"""Whether a node is joined, and what to do if not: every state of tailscaled, and what hides behind it."""

import pytest

from reconciler.mesh.codes import Trouble
from reconciler.mesh.controlurl import same_server
from reconciler.mesh.join import (
    Join,
    JoinAttempts,
    Joined,
    JoinWish,
    Rejoin,
    Stuck,
    Wait,
    decide_join,
    joining_prefs,
    key_refused,
    last_login_error,
    unreachable,
)
from reconciler.mesh.model import Peer, Prefs, Tailnet
from reconciler.mesh.preferences import required

OURS, THEIRS = "http://192.0.2.1:8080", "https://controlplane.tailscale.com"
NOW = 1_795_260_754.0  # November 2026
REFUSED = "You are logged out. The last login error was: invalid pre auth key"
SILENT = (
    'You are logged out. The last login error was: fetch control key: Get "http://192.0.2.1:8080/key?v=142": '
    "dial tcp 192.0.2.1:8080: connect: connection refused"
)
LOGIN_PAGE = "http://192.0.2.1:8080/register/hskey-authreq-x"


def wish(url=OURS, hostname="", tags=()):
    return JoinWish(url, hostname, tags, accept_dns=False)


def decide(state, url=OURS, *, wished=OURS, node_key=True, key=True, logged_out=False, health=(), auth_url="", **me):
    tailnet = Tailnet("1.102.3", state, node_key, True, auth_url, tuple(health), Peer("nodekey:1", **me))
    return decide_join(tailnet, Prefs(control_url=url, logged_out=logged_out), wish(wished), key, NOW)


# --- joined, or not


@pytest.mark.parametrize(
    "decision",
    [
        decide("Running"),
        decide("Running", "HTTP://192.0.2.1:8080/"),
        decide("Running", THEIRS, wished=""),
        decide("Running", key=False),
        decide("Running", node_key=False),  # missing in the answer
        decide("Stopped"),
    ],
)
def test_joined(decision):
    assert decision == Joined()


@pytest.mark.parametrize("state", ["Running", "Stopped", "NeedsLogin", "NoState", "Starting", "NeedsMachineAuth"])
@pytest.mark.parametrize(
    "url", [THEIRS, "", "http://192.0.2.1:8081", "https://192.0.2.1:8080", "http://192.0.2.10:8080"]
)
def test_a_node_that_is_joined_elsewhere_is_left_there_in_every_state(state, url):
    decision = decide(state, url, auth_url=LOGIN_PAGE, expired=True)
    assert decision.why.code == Trouble.JOINED_ELSEWHERE
    assert OURS in decision.why.msg
    assert (url or THEIRS) in decision.why.msg


def test_a_node_that_somebody_stopped_is_left_so_unless_the_server_is_known_to_be_ours():
    decision = decide("Stopped", THEIRS, wished="")
    assert decision.why.code == Trouble.MESH_STOPPED
    assert THEIRS in decision.why.msg


@pytest.mark.parametrize(
    ("state", "health", "why"),
    [
        ("NoState", (), "NoState"),
        ("Starting", (), "Starting"),
        ("InUseOtherUser", (), "InUseOtherUser"),
        ("NoState", ("Tailscale is starting. Please wait.",), "NoState"),
        ("NoState", (REFUSED.replace("invalid pre auth key", "register request: http 502"),), "http 502"),
    ],
)
def test_a_tailscaled_that_starts_is_waited_for(state, health, why):
    decision = decide(state, health=health)
    assert isinstance(decision, Wait)
    assert decision.trouble is None
    assert why in decision.why


@pytest.mark.parametrize("state", ["NoState", "NeedsLogin", "Starting"])
@pytest.mark.parametrize("node_key", [True, False])
@pytest.mark.parametrize("wished", [OURS, ""])
def test_a_control_server_that_does_not_answer_is_waited_for_and_named(state, node_key, wished):
    decision = decide(state, wished=wished, node_key=node_key, health=("unrelated", SILENT))
    assert isinstance(decision, Wait)
    assert decision.trouble.code == Trouble.CONTROL_LOST
    assert OURS in decision.trouble.msg
    assert "connection refused" in decision.trouble.msg


@pytest.mark.parametrize("state", ["NoState", "NeedsLogin"])
def test_a_corrected_url_is_joined_although_the_wrong_one_does_not_answer(state):
    assert decide(state, "http://192.0.2.99", node_key=False, health=(SILENT,)) == Join()


# --- joining


@pytest.mark.parametrize(
    "decision",
    [
        decide("NeedsLogin", "", node_key=False, logged_out=True, health=("Tailscale is stopped.",)),
        decide("NeedsLogin", "", logged_out=True),
        decide("NeedsLogin", THEIRS, node_key=False, logged_out=True),  # left it by `tailscale logout`
        decide("NeedsLogin", node_key=False, health=(REFUSED,)),
    ],
)
def test_a_node_that_never_joined_joins(decision):
    assert decision == Join()


def test_without_a_key_or_without_a_url_it_is_said_which_is_missing():
    no_key = decide("NeedsLogin", "", node_key=False, logged_out=True, key=False).why
    no_url = decide("NeedsLogin", "", node_key=False, logged_out=True, wished="").why
    assert (no_key.code, no_url.code) == (Trouble.NOT_JOINED, Trouble.NOT_JOINED)
    assert OURS in no_key.msg
    assert "no auth key" in no_key.msg
    assert "headscale.url" in no_url.msg


@pytest.mark.parametrize(
    ("me", "auth_url", "code", "says"),
    [
        ({"expired": True, "key_expiry": "2026-11-21T11:00:00Z"}, "", Trouble.KEY_EXPIRED, "2026-11-21T11:00:00Z"),
        ({"expired": True}, LOGIN_PAGE, Trouble.KEY_EXPIRED, OURS),
        ({"key_expiry": "2026-11-21T11:00:00.123456789Z"}, LOGIN_PAGE, Trouble.KEY_EXPIRED, OURS),
        ({"key_expiry": "2026-11-21T11:00:00"}, "", Trouble.KEY_EXPIRED, OURS),
        ({"key_expiry": "2027-11-21T11:00:00Z"}, LOGIN_PAGE, Trouble.NODE_DELETED, OURS),
        ({"key_expiry": "0001-01-01T00:00:00Z"}, LOGIN_PAGE, Trouble.NODE_DELETED, OURS),
        ({"key_expiry": "soon"}, LOGIN_PAGE, Trouble.NODE_DELETED, OURS),
        ({}, "", Trouble.NOT_JOINED, "does not say why"),
    ],
)
def test_a_node_that_lost_its_place_joins_again_if_it_has_a_key(me, auth_url, code, says):
    with_key = decide("NeedsLogin", auth_url=auth_url, **me)
    without = decide("NeedsLogin", auth_url=auth_url, key=False, **me)
    assert isinstance(with_key, Rejoin)
    assert isinstance(without, Stuck)
    assert with_key.why == without.why
    assert (without.why.code, says in without.why.msg) == (code, True)


def test_what_tailscaled_says_of_a_failed_login_is_told():
    assert "invalid pre auth key" in decide("NeedsLogin", health=(REFUSED,), key=False).why.msg


def test_a_node_that_waits_for_an_administrator_says_so():
    decision = decide("NeedsMachineAuth")
    assert isinstance(decision, Stuck)
    assert "has not approved this node" in decision.why.msg


# --- words


@pytest.mark.parametrize(
    ("health", "words"),
    [
        ((), ""),
        (("Tailscale is stopped.", "You are logged out."), ""),
        (("Tailscale is stopped.", REFUSED), "invalid pre auth key"),
        (("You are logged out. The last login error was: a: b: c\n",), "a: b: c"),
    ],
)
def test_the_words_of_the_last_login(health, words):
    assert last_login_error(health) == words


@pytest.mark.parametrize(
    ("words", "silent"),
    [
        (last_login_error([SILENT]), True),
        ('fetch control key: Get "https://h/key?v=142": x509: certificate signed by unknown authority', True),
        ("fetch control key: 504 Gateway Timeout", True),
        ("register request: all connection attempts failed", True),
        (last_login_error([REFUSED]), False),
        ("register request: http 500", False),
        ("", False),
    ],
)
def test_a_server_that_had_no_say_is_told_from_one_that_refused(words, silent):
    assert unreachable(words) is silent


def test_a_refused_key_is_a_refusal_with_the_servers_words():
    assert key_refused(OURS, "authkey expired").msg == f"{OURS} does not accept the auth key: authkey expired"
    assert "no reason given" in key_refused(OURS, "").msg


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://hs.example.com", "HTTPS://HS.Example.Com:443/", True),
        ("http://hs.example.com:80", " http://hs.example.com ", True),
        ("http://[FD00::1]:8080", "http://[fd00::1]:8080/", True),
        ("", "https://login.tailscale.com/", True),
        ("", "https://hs.example.com", False),
        ("http://hs.example.com", "https://hs.example.com", False),
        ("http://hs.example.com:443", "https://hs.example.com", False),
        ("https://hs.example.com/one", "https://hs.example.com/other", False),
        ("https://hs.example.com/one", "https://hs.example.com", False),
        ("http://[nonsense", "http://[nonsense", True),
    ],
)
def test_the_same_server_in_another_spelling(one, other, same):
    assert same_server(one, other) is same_server(other, one) is same


def test_a_password_in_tailscaleds_url_is_not_told():
    decision = decide("Running", "https://somebody:secret@hs.example.com")
    assert "hs.example.com" in decision.why.msg
    assert "secret" not in str(decision)


# --- what to join with

FRESH = {
    "ControlURL": "",
    "RouteAll": False,
    "CorpDNS": True,
    "WantRunning": False,
    "LoggedOut": True,
    "ShieldsUp": False,
    "AdvertiseTags": None,
    "Hostname": "",
    "AdvertiseRoutes": ["192.0.2.0/24"],
    "NoSNAT": False,
    "NoStatefulFiltering": True,
    "NetfilterMode": 1,
    "AutoUpdate": {"Check": True, "Apply": None},
    "ExitNodeID": "",
    "LaterInvention": [1, 2],
    "Config": {"PrivateNodeKey": "privkey:0"},
}
REQUIRED = {each.name: each.value for each in required(accept_dns=False)}


def test_joining_keeps_every_preference_but_the_ones_it_is_about():
    prefs = joining_prefs(FRESH, wish(), REQUIRED)
    changed = {name: value for name, value in prefs.items() if FRESH[name] != value}
    assert changed == {
        "ControlURL": OURS,
        "RouteAll": True,
        "CorpDNS": False,
        "WantRunning": True,
        "LoggedOut": False,
        "NoSNAT": True,
    }
    assert set(FRESH) - set(prefs) == {"Config"}
    assert FRESH["ControlURL"] == ""


@pytest.mark.parametrize("now", [{}, {"NetfilterMode": None}])
def test_the_firewall_is_not_switched_off_by_leaving_it_out(now):
    assert joining_prefs(now, wish(), REQUIRED)["NetfilterMode"] == 2


def test_netfilter_switched_off_by_somebody_stays_off():
    assert joining_prefs({"NetfilterMode": 0}, wish(), REQUIRED)["NetfilterMode"] == 0


def test_host_name_and_tags_are_written_only_where_configured():
    before = {"Hostname": "n1", "AdvertiseTags": ["tag:db"]}
    assert joining_prefs(before, wish(), {}).items() >= before.items()
    after = joining_prefs(before, wish(hostname="pods-1", tags=("tag:k8s",)), {})
    assert (after["Hostname"], after["AdvertiseTags"]) == ("pods-1", ["tag:k8s"])


# --- trying again


def test_a_refused_key_waits_longer_each_time_and_another_key_does_not():
    attempts, now, waits = JoinAttempts(), 1000.0, []
    assert attempts.may_try("one", now)
    for _ in range(6):
        attempts = attempts.tried("one", now)
        assert not attempts.may_try("one", now + attempts.wait - 0.1)
        assert attempts.may_try("another", now)
        now += attempts.wait
        waits.append(attempts.wait)
        assert attempts.may_try("one", now)
    assert waits == [60, 120, 240, 480, 600, 600]
    assert attempts.tried("another", now).wait == 60


def test_ten_thousand_refusals_are_no_overflow():
    assert JoinAttempts(tries=10_000).wait == 600


def test_attempts_hold_no_key_and_show_no_hash():
    tried = JoinAttempts().tried("hskey-auth-secret", 0.0)
    assert "secret" not in tried.key_hash
    assert tried.key_hash not in repr(tried)
