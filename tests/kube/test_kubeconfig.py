"""Kubeconfig files as they should not be: each is named with file, key and cure, and no value is ever shown."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cni.spec import Refusal
from fixtures.kube.pki import Authority, Pair
from fixtures.processes import REPOSITORY
from reconciler.kube import execplugin
from reconciler.kube.access import Access
from reconciler.kube.candidates import Candidate, Origin
from reconciler.kube.codes import Trouble
from reconciler.kube.draft import inspect
from reconciler.kube.opening import open_access
from tests.kube.clients import document, write

URL = "https://192.0.2.1:6443"
SECRET = "s3cr3t-0123456789abcdef"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def pair(authority):
    return authority.issue("kubelet", "system:node:worker", groups=("system:nodes",))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "kubelet.conf"


def opened(file, **more):
    return open_access(Candidate(Origin.KUBECONFIG, file, **more))


def good(file, **more) -> Access:
    access = opened(file, **more)
    assert isinstance(access, Access), access
    return access


def told(file, *words, code=Trouble.API_KUBECONFIG, **more):
    refusal = opened(file, **more)
    assert isinstance(refusal, Refusal), refusal
    text = f"{refusal.msg} | {refusal.details}"
    assert refusal.code == code, text
    assert SECRET not in text
    assert str(file.parent) in text
    assert refusal.details
    for word in words:
        assert word in text, text
    return refusal


def inline(pair):
    encoded = {key: base64.b64encode(path.read_bytes()).decode() for key, path in pair_files(pair).items()}
    return {f"{key}-data": value for key, value in encoded.items()}


def pair_files(pair):
    return {"client-certificate": pair.certificate, "client-key": pair.key}


# --- files


def test_it_is_not_there(file):
    told(file, "does not exist")


def test_it_is_an_empty_directory(file):
    """Docker and kubelet make one where a mounted file is missing."""
    file.mkdir()
    told(file, "is a directory")


def test_it_is_a_pipe(file):
    os.mkfifo(file)
    told(file, "FIFO")


def test_it_is_a_hundred_megabytes(file):
    with file.open("wb") as opened:
        opened.truncate(100 << 20)
    told(file, "104857600 bytes")


@pytest.mark.parametrize("content", ["", "---\n", "# nothing\n"])
def test_it_is_empty(file, content):
    file.write_text(content)
    told(file, "is empty")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"a: [1, 2\nb: {SECRET}", "is cut off, or not YAML, at line 2"),
        (f"users: {{token: {SECRET}", "at line "),
        ("\x00\x01", "is not YAML"),
        (f"a: &a [*a]\nb: !!python/object:os.system {SECRET}", "has no key `current-context`; it has `a`, `b`"),
        ("a: 2024-99-99", "has no key `current-context`"),
        ("[" * 200_000, "nested deeper than 64"),
        (SECRET, "holds a text, not keys"),
        (f"[{SECRET}]", "holds a list, not keys"),
    ],
)
def test_it_is_not_what_it_should_be(file, content, words):
    file.write_text(content)
    told(file, words)


# --- keys


def without(key, body=None):
    body = body or document(URL, {"token": SECRET})
    holder = body
    *way, last = key
    for step in way:
        holder = holder[step]
    del holder[last]
    return body


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (["current-context"], ["no key `current-context`", "`contexts`, `clusters`", "write `current-context: it`"]),
        (["contexts"], ["no key `contexts`", "it has `current-context`, `clusters`, `users`"]),
        (["contexts", 0, "context", "cluster"], ["context it in", "no key `cluster`; it has `user`"]),
        (["clusters", 0, "cluster"], ["cluster lab in", "no key `cluster`; it has `name`"]),
        (["clusters", 0, "cluster", "server"], ["cluster lab in", "no key `server`; it has no keys"]),
        (["users"], ["no key `users`"]),
        (["users", 0], ["has no user someone; it has none"]),
    ],
)
def test_a_key_is_missing(file, key, words):
    told(write(file, without(key)), *words)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("contexts", {"it": {}}),
        ("contexts", ["it", 3]),
        ("clusters", None),
        ("users", [{"name": "someone", "user": SECRET}]),
        ("current-context", ["it"]),
    ],
)
def test_a_value_is_of_another_kind(file, key, value):
    told(write(file, {**document(URL, {"token": SECRET}), key: value}))


@pytest.mark.parametrize("cluster", [{"tls-server-name": ["x"]}, {"insecure-skip-tls-verify": "perhaps"}])
def test_a_value_that_the_package_trips_over_is_no_fault(file, cluster):
    assert isinstance(opened(write(file, document(URL, **cluster))), Access | Refusal)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("192.0.2.1:6443", "is not a URL"),
        ("https://", "is not a URL"),
        ("https://[fd00::1", "is not a URL"),
        (f"https://admin:{SECRET}@192.0.2.1", "is not a URL"),
        ("http://192.0.2.1:8080", "is not encrypted"),
    ],
)
def test_the_server_cannot_be_dialled(file, url, words):
    told(write(file, document(url, {"token": SECRET})), words)


def test_a_proxy_of_kubectl_needs_no_encryption(file):
    assert good(write(file, document("http://127.0.0.1:8001"))).who == "no credentials"


# --- authorities and certificates


def test_inline_certificates_are_used_and_never_reach_a_disk(file, authority, pair, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))  # the package's way would be a temporary file
    ca = base64.b64encode(authority.certificate.read_bytes()).decode()
    before = set(os.listdir("/proc/self/fd"))
    access = good(write(file, document(URL, inline(pair), **{"certificate-authority-data": ca})))
    assert access.who == f"the certificate of system:node:worker (user someone in {file})"
    assert access.authority == f"certificate-authority-data of cluster lab in {file}"
    assert [each.subject for each in access.authorities] == ["kubernetes"]
    assert set(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == [file.name]


def test_paths_count_from_the_kubeconfig_s_folder(file, authority, pair):
    (file.parent / "pki").mkdir()
    for path in (authority.certificate, pair.certificate, pair.key):
        (file.parent / "pki" / path.name).write_bytes(path.read_bytes())
    user = {"client-certificate": f"pki/{pair.certificate.name}", "client-key": f"pki/{pair.key.name}"}
    access = good(write(file, document(URL, user, **{"certificate-authority": "pki/ca.pem"})))
    assert "system:node:worker" in access.who


def test_files_of_the_host_are_found_under_its_root(tmp_path, pair):
    """A kubelet's certificate is an absolute link, which must not lead into the container."""
    pki = tmp_path / "var/lib/kubelet/pki"
    pki.mkdir(parents=True)
    (pki / "kubelet-client-1.pem").write_bytes(pair.certificate.read_bytes() + pair.key.read_bytes())
    (pki / "kubelet-client-current.pem").symlink_to("/var/lib/kubelet/pki/kubelet-client-1.pem")
    both = dict.fromkeys(pair_files(pair), "/var/lib/kubelet/pki/kubelet-client-current.pem")
    write(tmp_path / "kubelet.conf", document(URL, both))
    access = open_access(Candidate(Origin.KUBELET, Path("/kubelet.conf")), root=tmp_path)
    assert isinstance(access, Access), access
    assert "system:node:worker (user someone in /kubelet.conf)" in access.who
    assert not access.stale(0)
    (pki / "kubelet-client-1.pem").write_bytes(b"")
    assert access.stale(0)


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"certificate-authority-data": "%%%" + SECRET}, "certificate-authority-data of cluster lab in"),
        ({"certificate-authority-data": "aGVsbG8="}, "holds no certificate"),
        ({"certificate-authority": "missing.pem"}, "certificate-authority missing.pem of cluster lab in"),
        ({"certificate-authority": ["a"]}, "is not a path"),
        ({"certificate-authority": "."}, "is a directory that holds kubelet.conf"),
    ],
)
def test_the_authority_cannot_be_used(file, cluster, words):
    told(write(file, document(URL, **cluster)), words)


def test_a_damaged_authority(file, authority):
    lines = authority.certificate.read_text().splitlines()
    lines[3] = "A" * len(lines[3])
    (file.parent / "ca.pem").write_text("\n".join(lines))
    refusal = opened(write(file, document(URL, **{"certificate-authority": "ca.pem"})))
    assert isinstance(refusal, Access | Refusal)  # OpenSSL verifies no signature here
    lines[-2] = lines[-2][:-5]
    (file.parent / "ca.pem").write_text("\n".join(lines))
    told(write(file, document(URL, **{"certificate-authority": "ca.pem"})))


def test_a_certificate_without_its_key(file, pair):
    told(write(file, document(URL, {"client-certificate": str(pair.certificate)})), "has no key `client-key`")


def test_a_certificate_and_the_key_of_another(file, authority, pair):
    other = authority.issue("other", "other")
    mixed = Pair(pair.certificate, other.key)
    told(write(file, document(URL, inline(mixed))), "user someone in", "do not belong together")


# --- tokens


def test_a_token_file_is_read_at_each_call(file, tmp_path):
    token = tmp_path / "token"
    token.write_text(f"{SECRET}\n")
    access = good(write(file, document(URL, {"tokenFile": "token"})))
    assert access.authorization() == f"Bearer {SECRET}"
    token.write_text("another")
    assert access.authorization() == "Bearer another"
    token.write_text("")
    emptied = access.authorization()
    assert isinstance(emptied, Refusal)
    assert f"the token file {token} is empty" in emptied.msg


@pytest.mark.parametrize("content", ["", f"{SECRET} and more", f"{SECRET}\nsecond", "x" * 70_000 + "\x01"])
def test_what_is_no_token(file, tmp_path, content):
    (tmp_path / "token").write_text(content)
    told(write(file, document(URL, {"tokenFile": "token"})), "the token file", code=Trouble.API_CREDENTIALS)


def test_nothing_of_an_access_shows_its_secrets(file):
    access = good(write(file, document(URL, {"token": SECRET})))
    assert access.authorization() == f"Bearer {SECRET}"
    assert SECRET not in f"{access!r} {access}"
    access = good(write(file, document(URL, {"username": "admin", "password": SECRET})))
    assert access.authorization().startswith("Basic ")
    assert SECRET not in f"{access!r} {access}"


def test_a_service_account_s_token_on_the_kubelet_s_way(file, pair, tmp_path):
    (tmp_path / "token").write_text("abc")
    access = good(write(file, document(URL, inline(pair))), token_file=tmp_path / "token")
    assert access.own is None
    assert access.who == f"the token in {tmp_path / 'token'}"


def test_an_auth_provider_is_refused_rather_than_run(file):
    provider = {"name": "gcp", "config": {"cmd-path": "/bin/sleep", "cmd-args": "100"}}
    told(write(file, document(URL, {"auth-provider": provider})), "user someone in", "removed in 1.26")


# --- exec plugins


def plugin(script, **more):
    spec = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "args": ["-c", script], **more}
    return document(URL, {"exec": spec})


def credential(**status):
    return json.dumps({"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status})


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (f"echo {SECRET} >&2; exit 3", "failed with 3"),
        (f"echo {SECRET}", "printed no credentials"),
        ("echo '[]'", "printed no credentials"),
        (f"echo '{credential()}'", "printed no credentials"),
        (f"echo '{credential(token=3, expirationTimestamp='soon')}'", "printed no credentials"),
        ("yes 0123456789", "did not end within 0.3 s"),
        (f"sleep 60 & echo '{credential(token=SECRET)}'", "did not end within 0.3 s"),
        ("exec sleep 60", "did not end within 0.3 s"),
    ],
)
def test_a_plugin_that_is_of_no_use(file, script, words, monkeypatch):
    monkeypatch.setattr(execplugin.run, "__defaults__", (0.3,))
    told(write(file, plugin(script)), "exec plugin sh of user someone in", words, code=Trouble.API_CREDENTIALS)


@pytest.mark.parametrize("more", [{"args": 5}, {"env": "KEY=value"}, {"args": ["a\0b"]}], ids=["args", "env", "NUL"])
def test_a_plugin_whose_words_are_none(file, more):
    body = plugin("true", **more)
    told(write(file, body), "exec plugin", "correct it there", code=Trouble.API_CREDENTIALS)


def test_a_plugin_does_not_outlive_the_daemon(file, tmp_path):
    write(file, plugin("echo $$ > child; sleep 60"))
    program = (
        "import threading, time; from pathlib import Path\n"
        "from reconciler.kube import candidates, opening\n"
        f"way = candidates.Candidate(candidates.Origin.KUBECONFIG, Path({str(file)!r}))\n"
        "threading.Thread(target=opening.open_access, args=(way,), daemon=True).start()\n"
        f"while not (f := Path({str(tmp_path / 'child')!r})).exists() or not f.read_text(): time.sleep(0.02)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True, timeout=30)
    child = int((tmp_path / "child").read_text())
    give_up = time.monotonic() + 5
    while runs(child):
        assert time.monotonic() < give_up


def test_what_is_overdue_is_known_from_the_files_alone(file):
    claims = base64.urlsafe_b64encode(json.dumps({"exp": 1000}).encode()).decode().rstrip("=")
    write(file, document(URL, {"token": f"x.{claims}.{SECRET}"}))
    refusal = inspect(Candidate(Origin.KUBECONFIG, file), Path("/"), 2000.0)
    assert refusal is not None
    assert (refusal.code, SECRET in refusal.msg) == (Trouble.API_CREDENTIALS, False)
    assert "expired at 1970-01-01T00:16:40Z, and this node's clock says 1970-01-01T00:33:20Z" in refusal.msg
    assert inspect(Candidate(Origin.KUBECONFIG, file), Path("/"), 999.0) is None


def test_a_client_certificate_that_is_overdue_is_known_from_the_files_alone(file, pair):
    inline = {
        "client-certificate-data": base64.b64encode(pair.certificate.read_bytes()).decode(),
        "client-key-data": base64.b64encode(pair.key.read_bytes()).decode(),
    }
    write(file, document(URL, inline))
    assert inspect(Candidate(Origin.KUBECONFIG, file), Path("/"), time.time()) is None
    refusal = inspect(Candidate(Origin.KUBECONFIG, file), Path("/"), time.time() + 1e9)
    assert refusal is not None
    assert "the client certificate of user someone" in refusal.msg


@pytest.mark.parametrize("token", ["SECRETabc\ndef", "SECRET\u20ac", "SECRET\x7f"])
def test_a_token_that_is_none_is_not_told(file, token):
    refusal = opened(write(file, document(URL, {"token": token})))
    assert isinstance(refusal, Refusal)
    assert "something else than a token" in refusal.msg
    assert "SECRET" not in f"{refusal.msg} {refusal.details}"


@pytest.mark.parametrize("given", ["false", "False", False])
def test_what_is_written_as_false_is_false(file, given):
    body = document(URL, {"token": SECRET}, **{"insecure-skip-tls-verify": given})
    assert good(write(file, body)).authority != "insecure-skip-tls-verify"


def test_a_plugin_that_hangs_is_ended_with_its_children(file, tmp_path, monkeypatch):
    monkeypatch.setattr(execplugin.run, "__defaults__", (0.3,))
    told(write(file, plugin("sleep 60 & echo $! > child; wait")), "did not end within", code=Trouble.API_CREDENTIALS)
    child = int((tmp_path / "child").read_text())
    give_up = time.monotonic() + 5
    while runs(child):
        assert time.monotonic() < give_up


def runs(pid):
    """Its parent has gone, so it may wait for the machine's first process to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("spec", [None, "sh", {}, {"command": "sh"}, {"command": 3, "apiVersion": "v1"}])
def test_a_plugin_without_a_command(file, spec):
    told(write(file, document(URL, {"exec": spec})), "has no command or no apiVersion", code=Trouble.API_CREDENTIALS)


def test_a_plugin_that_is_not_installed(file):
    body = plugin("true", command="no-such-command")
    told(write(file, body), "exec plugin no-such-command", "cannot be run", code=Trouble.API_CREDENTIALS)


def test_a_plugin_is_told_about_the_cluster_and_its_token_ends(file):
    script = 'test "$KEY" = value && case "$KUBERNETES_EXEC_INFO" in *192.0.2.1*) ;; *) exit 1;; esac; cat printed'
    (file.parent / "printed").write_text(credential(token=SECRET, expirationTimestamp="2030-01-01T00:00:00Z"))
    body = plugin(script, provideClusterInfo=True, env=[{"name": "KEY", "value": "value"}, "junk"])
    access = good(write(file, body))
    assert access.authorization() == f"Bearer {SECRET}"
    assert access.expires == 1893456000.0
    assert not access.stale(1893455999)
    assert access.stale(1893456000)


def test_a_plugin_may_give_a_certificate(file, pair):
    data = {"clientCertificateData": pair.certificate.read_text(), "clientKeyData": pair.key.read_text()}
    (file.parent / "printed").write_text(credential(**data))
    assert "the certificate of system:node:worker" in good(write(file, plugin("cat printed"))).who


def test_a_plugin_beside_its_kubeconfig_is_found_from_there(file):
    script = file.parent / "bin" / "login"
    script.parent.mkdir()
    script.write_text(f"#!/bin/sh\necho '{credential(token=SECRET)}'\n")
    script.chmod(0o755)
    spec = {"apiVersion": "client.authentication.k8s.io/v1", "command": "bin/login"}
    assert good(write(file, document(URL, {"exec": spec}))).authorization() == f"Bearer {SECRET}"
