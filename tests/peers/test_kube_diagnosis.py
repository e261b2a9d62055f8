"""Each diagnosis by its real cause, against a real API server: the code, what was dialled, the cause and the cure."""

from __future__ import annotations

import asyncio
import json
import socket
import time

import pytest
import yaml

from cni.spec import Refusal
from fixtures.kube.pki import Authority
from fixtures.kube.proxy import KubeProxy
from fixtures.kube.server import SERVICE_ADDRESS, KubeServer, of
from fixtures.lab import Lab
from reconciler.kube.candidates import Candidate, Origin
from reconciler.kube.codes import Trouble
from tests.kube.clients import attempt

NODE = "/api/v1/nodes/worker"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with KubeServer(tmp_path_factory.mktemp("kube")) as made:
        made.add_node("worker")
        made.reader = of(made.user("reader"))
        made.grant("reader", ["get"], ["nodes"])
        yield made


async def asked(candidate, path=NODE):
    client = await attempt(candidate)
    if isinstance(client, Refusal):
        return client
    try:
        return await client.get(path)
    finally:
        await client.close()


def outcome(candidate, path=NODE):
    return asyncio.run(asked(candidate, path))


def told(candidate, code, *words, path=NODE):
    refusal = outcome(candidate, path)
    assert isinstance(refusal, Refusal), refusal
    text = f"{refusal.msg} | {refusal.details}"
    assert refusal.code == code, text
    assert refusal.details
    for word in words:
        assert word in text, text
    assert "\n" not in text
    return refusal


# --- TLS


def test_the_certificate_of_another_authority(server, tmp_path):
    other = Authority(tmp_path, "rancher-ca")
    file = server.kubeconfig("other-ca", server.reader, authority=other.certificate)
    told(
        file, Trouble.API_TLS_AUTHORITY, server.url, "with the certificate of reader", "signed by kubernetes",
        f"expected was certificate-authority-data of cluster lab in {file} (rancher-ca)",
        f"put the right authority into certificate-authority-data or certificate-authority of cluster lab in {file}",
    )  # fmt: skip


def test_an_authority_of_the_same_name(server, tmp_path):
    """As after a cluster was made anew: all of kubeadm are called kubernetes."""
    file = server.kubeconfig("old-ca", server.reader, authority=Authority(tmp_path, "kubernetes").certificate)
    told(file, Trouble.API_TLS_AUTHORITY, "signed by another kubernetes", "same name, other key")


def test_an_address_that_the_certificate_does_not_carry(server):
    url = server.url.replace("127.0.0.1", "localhost")
    file = server.kubeconfig("by-name", server.reader, url=url)
    told(
        file, Trouble.API_TLS_NAME, f"{url} with", "is not for localhost",
        "it carries kubernetes, kubernetes.default, kubernetes.default.svc, 10.96.0.1, 127.0.0.1",
        f"write `tls-server-name: kubernetes` into cluster lab in {file}",
    )  # fmt: skip
    cured = server.kubeconfig("by-name", server.reader, url=url, **{"tls-server-name": "kubernetes"})
    assert outcome(cured)["metadata"]["name"] == "worker"


def test_an_expired_certificate_and_one_that_is_not_valid_yet(server):
    file = server.kubeconfig("reader", server.reader)
    right = server.authority.issue("renewed", "kube-apiserver", names=server.names)
    try:
        server.rotate(server.authority.issue("old", "kube-apiserver", names=server.names, begins=-9, ends=-2))
        refusal = told(file, Trouble.API_TLS_TIME, "its certificate expired at", "renew it on the control plane")
        ended, now = (refusal.msg.partition(word)[2][:20] for word in ("expired at ", "clock says "))
        assert time.mktime(time.strptime(now, "%Y-%m-%dT%H:%M:%SZ")) - time.mktime(
            time.strptime(ended, "%Y-%m-%dT%H:%M:%SZ")
        ) == pytest.approx(2 * 86400, abs=600)
        server.rotate(server.authority.issue("next", "kube-apiserver", names=server.names, begins=2, ends=9))
        told(file, Trouble.API_TLS_TIME, "its certificate is not valid before", "this node's clock says")
    finally:
        server.rotate(right)
    assert outcome(file)["metadata"]["name"] == "worker"


# --- kubeconfig


def test_a_kubeconfig_that_is_a_mounted_configmap(tmp_path):
    folder = tmp_path / "kubeconfig"
    (folder / "..data").mkdir(parents=True)
    (folder / "admin.conf").write_text("")
    refusal = told(folder, Trouble.API_KUBECONFIG, "is a directory that holds admin.conf", "mount its key with subPath")
    assert str(folder) in refusal.msg


def test_a_kubeconfig_without_an_expected_key(server):
    file = server.kubeconfig("cut", server.reader)
    body = json.loads(file.read_text())
    del body["clusters"]
    file.write_text(json.dumps(body))
    keys = "it has `apiVersion`, `kind`, `current-context`, `contexts`, `users`"
    told(file, Trouble.API_KUBECONFIG, str(file), "has no key `clusters`", keys)


# --- credentials


def test_an_expired_token(server):
    file = server.kubeconfig("expired", {"token": server.token("headcni", -600)})
    told(
        file, Trouble.API_CREDENTIALS, "the token of system:serviceaccount:default:headcni", "the token expired at",
        "(401)", "and this node's clock says", "kube.tokenFile",
    )  # fmt: skip
    file = server.kubeconfig("valid", {"token": server.token("headcni", 600)})
    told(file, Trouble.API_FORBIDDEN, "system:serviceaccount:default:headcni may not get nodes (403)")


def test_an_expired_client_certificate(server):
    file = server.kubeconfig("late", of(server.user("late", begins=-9, ends=-2)))
    told(file, Trouble.API_CREDENTIALS, "the certificate of late", "the client certificate is valid from", "(401)")


def test_credentials_of_another_cluster(server, tmp_path):
    file = server.kubeconfig("foreign", of(Authority(tmp_path).issue("reader", "reader")))
    told(file, Trouble.API_CREDENTIALS, "does not accept these credentials (401)", "of another cluster")


def test_no_credentials(server):
    told(server.kubeconfig("nobody", {}), Trouble.API_CREDENTIALS, "with no credentials", "kube.tokenFile")


def test_rights_that_are_missing_and_the_rule_that_grants_them(server):
    file = server.kubeconfig("poor", of(server.user("poor")))
    refusal = told(file, Trouble.API_FORBIDDEN, "poor may not get nodes (403)", "ClusterRole that is bound to poor")
    (rule,) = yaml.safe_load(refusal.details.partition(": ")[2])
    server.grant("poor", rule["verbs"], rule["resources"], *rule["apiGroups"])
    try:
        assert outcome(file)["metadata"]["name"] == "worker"
        lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x"
        rule = '- {apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get"]}'
        told(file, Trouble.API_FORBIDDEN, "in namespace kube-system", "add to a Role", rule, path=lease)
    finally:
        server.revoke("poor")


def test_an_exec_plugin_that_hangs(server, monkeypatch):
    from reconciler.kube import execplugin

    monkeypatch.setattr(execplugin.run, "__defaults__", (0.5,))
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sleep", "args": ["--", "100"]}
    file = server.kubeconfig("plugin", {"exec": plugin})
    began = time.monotonic()
    told(file, Trouble.API_CREDENTIALS, f"exec plugin sleep of user someone in {file} did not end within 0.5 s")
    assert time.monotonic() - began < 5


def test_an_exec_plugin_that_gives_a_token(server, tmp_path):
    status = {"token": server.token("plugin", 600), "expirationTimestamp": "2999-01-01T00:00:00Z"}
    kind = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    (tmp_path / "printed").write_text(json.dumps({**kind, "status": status}))
    plugin = {"apiVersion": kind["apiVersion"], "command": "cat", "args": [str(tmp_path / "printed")]}
    file = server.kubeconfig("plugin", {"exec": plugin})
    told(file, Trouble.API_FORBIDDEN, "system:serviceaccount:default:plugin may not get nodes")


# --- connections


def test_nobody_listens(server):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{held.getsockname()[1]}"
        file = server.kubeconfig("refused", server.reader, url=url)
        told(file, Trouble.API_UNREACHABLE, f"{url} with", "connection refused", "see that kube-apiserver runs there")


@pytest.mark.parametrize(
    ("routes", "why"),
    [((), "network is unreachable"), (("unreachable", "198.51.100.0/24"), "no route to host")],
    ids=["none", "one that says so"],
)
def test_no_route(server, routes, why):
    file = server.kubeconfig("elsewhere", server.reader, url="https://198.51.100.1:6443")
    with Lab(1) as lab:
        (node,) = lab.nodes
        if routes:
            node.run("ip", "route", "add", *routes)
        with node.entered():
            told(
                file, Trouble.API_UNREACHABLE, "https://198.51.100.1:6443 with the certificate of reader",
                f"no route ({why})", f"see `ip route get 198.51.100.1`, and `server` of cluster lab in {file}",
            )  # fmt: skip


def test_a_name_that_does_not_resolve(server):
    file = server.kubeconfig("unnamed", server.reader, url="https://api.headcni.invalid:6443")
    told(file, Trouble.API_NAME, "the name api.headcni.invalid cannot be resolved", "/etc/resolv.conf")


def test_a_server_that_takes_connections_and_says_nothing(server, monkeypatch):
    from reconciler.kube import client

    monkeypatch.setattr(client, "CALL", 1.0)
    file = server.kubeconfig("reader", server.reader)

    async def run():
        made = await attempt(file)
        server.pause()
        try:
            return await made.ask(client.Request("GET", NODE), 1.0)
        finally:
            server.go_on()
            await made.close()

    refusal = asyncio.run(run())
    assert refusal.code == Trouble.API_UNREACHABLE
    assert "takes connections, but does not answer in time" in refusal.msg


@pytest.mark.parametrize("mode", ["nftables", "iptables"])
def test_the_service_address_needs_kube_proxy(mode, tmp_path):
    with Lab(2) as lab, KubeServer(tmp_path / "kube", lab.nodes[0]) as server:
        node = lab.nodes[1]
        token = tmp_path / "token"
        token.write_text(server.token("headcni"))
        server.grant("system:serviceaccount:default:headcni", ["get"], ["nodes"])
        addresses = {"status": {"addresses": [{"type": "InternalIP", "address": node.address}]}}
        server.add_node(node.label)
        server.call("PATCH", f"/api/v1/nodes/{node.label}/status", addresses, "application/merge-patch+json")
        service = Candidate(
            Origin.IN_CLUSTER, None, f"https://{SERVICE_ADDRESS}:443", server.authority.certificate, token
        )
        path = f"/api/v1/nodes/{node.label}"

        def ask(candidate, code=None, *words):
            with node.entered():
                return told(candidate, code, *words, path=path) if code else outcome(candidate, path)

        direct = server.kubeconfig("direct", {"token": token.read_text()})
        assert ask(direct)["metadata"]["name"] == node.label
        node.run("ip", "route", "add", "default", "via", server.address)
        refusal = ask(service, Trouble.API_SERVICE_ADDRESS, f"https://{SERVICE_ADDRESS}:443 with the token of")
        assert "no answer within 2 s" in refusal.msg
        assert "kube-proxy is not up" in refusal.msg
        places = ["nftables map ip kube-proxy service-ips", "iptables chain ip nat KUBE-SERVICES", "ipvs"]
        assert f"no rule for it in {', '.join(places)}" in refusal.msg
        assert "kube.url or kube.kubeconfig" in refusal.details

        with KubeProxy(server, node, tmp_path / "proxy", mode):
            deadline = time.monotonic() + 30
            while isinstance(answer := ask(service), Refusal):
                assert time.monotonic() < deadline, (tmp_path / "proxy/kube-proxy.out").read_text()[-2000:]
            assert answer["metadata"]["name"] == node.label
            server.kill()
            found = places[0] if mode == "nftables" else places[1]
            ask(service, Trouble.API_SERVICE_ADDRESS, f"kube-proxy has it in {found}, so its endpoints do not answer")
