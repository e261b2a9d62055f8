"""The HTTP endpoint: what probes and scrapers are told, and what a bad client can and cannot do."""

import http.client
import logging
import socket
import threading
import time

import pytest

from cni.spec import Refusal
from reconciler.operate import http as endpoint

NOT_READY = ({"what": "pool 10.1.0.0/30 is empty", "cure": "delete pods"},)


@pytest.fixture
def serve():
    """Starts a server with the given facts; every one is stopped at the end."""
    started = []

    def start(metrics=lambda: "a 1\n", beat_age=lambda: 0.1, not_ready=lambda: ()):
        server = endpoint.start("127.0.0.1", 0, endpoint.pages("/numbers", metrics, beat_age, not_ready))
        assert isinstance(server, endpoint.Server)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


def _get(server, path, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read().decode()
    connection.close()
    return response.status, body


def test_metrics_are_served_at_the_configured_path(serve):
    assert _get(serve(), "/numbers?x=1") == (200, "a 1\n")


def test_head_answers_without_a_body(serve):
    assert _get(serve(), "/numbers", "HEAD") == (200, "")


def test_alive_while_the_loop_beats(serve):
    assert _get(serve(), "/healthz") == (200, "ok\n")


def test_a_stuck_loop_is_neither_healthy_nor_ready(serve):
    server = serve(beat_age=lambda: 42.0)
    status, text = _get(server, "/healthz")
    assert status == 503
    assert "42 s" in text
    assert _get(server, "/readyz")[0] == 503


def test_ready(serve):
    assert _get(serve(), "/readyz") == (200, "ready\n")


def test_not_ready_says_why_and_what_to_do(serve):
    status, text = _get(serve(not_ready=lambda: NOT_READY), "/readyz")
    assert status == 503
    assert "pool 10.1.0.0/30 is empty; delete pods" in text


def test_an_unknown_path_lists_the_known_ones(serve):
    status, text = _get(serve(), "/metrics")
    assert status == 404
    assert "/healthz, /numbers, /readyz" in text


@pytest.mark.expects_errors
def test_a_page_that_fails_is_told_to_the_client_and_logged(serve, caplog):
    server = serve(metrics=lambda: str(1 // 0))
    status, _ = _get(server, "/numbers")
    assert status == 500
    for _ in range(100):  # the client may be faster than the log
        if "fault" in caplog.text:
            break
        time.sleep(0.01)
    assert "ZeroDivisionError" in caplog.text
    assert _get(server, "/healthz")[0] == 200


def test_requests_are_not_logged(serve, caplog):
    caplog.set_level(logging.INFO)
    server = serve()
    _get(server, "/healthz")
    _get(server, "/nothing")
    assert caplog.text == ""


def test_a_taken_port_is_a_refusal_that_names_it_and_the_cure(serve):
    port = serve().port
    refusal = endpoint.start("127.0.0.1", port, {})
    assert isinstance(refusal, Refusal)
    assert f"127.0.0.1 port {port}" in refusal.msg
    assert "--metrics-port" in refusal.details


def test_a_foreign_address_is_a_refusal():
    refusal = endpoint.start("192.0.2.1", 0, {})
    assert isinstance(refusal, Refusal)
    assert "192.0.2.1" in refusal.msg


def test_listens_on_ipv6():
    server = endpoint.start("::1", 0, {})
    assert isinstance(server, endpoint.Server)
    server.stop()


def test_a_silent_client_is_dropped(serve, monkeypatch):
    monkeypatch.setattr(endpoint._Handler, "timeout", 0.05)
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as silent:
        assert silent.recv(1) == b""


def test_silent_clients_do_not_keep_a_probe_out(serve, monkeypatch):
    monkeypatch.setattr(endpoint, "MAX_CONNECTIONS", 3)
    server = serve()
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(5)]
    assert _get(server, "/healthz")[0] == 200
    assert silent[0].recv(1) == b""  # the oldest made room
    for each in silent:
        each.close()


def test_stop_closes_the_port_and_ends_the_threads():
    before = set(threading.enumerate())
    server = endpoint.start("127.0.0.1", 0, {})
    assert isinstance(server, endpoint.Server)
    port = server.port
    with socket.create_connection(("127.0.0.1", port), timeout=5) as silent:
        assert _get(server, "/")[0] == 404  # so the silent one has been accepted, too
        server.stop()
        assert silent.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) <= before
