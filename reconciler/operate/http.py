"""The daemon seen over HTTP: metrics for Prometheus, /healthz and /readyz for the kubelet and for a person with curl.

It runs in threads of its own, so that it can tell a stuck event loop from a dead process: /healthz looks at the age
of the loop's last heartbeat. Nothing here knows the engine; every page is a function that is called when the page is
asked for. Whatever a client does or omits costs little: a silent connection is dropped after `PATIENCE_SECONDS`, and
when more than `MAX_CONNECTIONS` are open, the oldest goes, so that slow clients cannot keep a probe out.

Rejected: serving from the event loop (its silence could not be told), and http.server's own `HTTPServer`, which asks
the DNS for its own name when it binds.
"""

from __future__ import annotations

import logging
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

from cni.spec import Code, Refusal

log = logging.getLogger("headcni")

PATIENCE_SECONDS = 5.0
MAX_CONNECTIONS = 32
NO_POLLING = 3600.0  # socketserver looks this often whether it is to end; `stop` wakes it
STUCK_SECONDS = 10.0  # the event loop beats twice a second; no step of it takes this long
TEXT = "text/plain; charset=utf-8"

Page = Callable[[], tuple[int, str]]


def pages(
    metrics_path: str,
    metrics: Callable[[], str],
    beat_age: Callable[[], float],
    not_ready: Callable[[], Sequence[Mapping[str, str]]],
) -> dict[str, Page]:
    """`beat_age`: seconds since the event loop last beat. `not_ready`: reasons, each with `what` and `cure`."""

    def healthz() -> tuple[int, str]:
        age = beat_age()
        if age < STUCK_SECONDS:
            return 200, "ok\n"
        return 503, f"the event loop has not moved for {age:.0f} s; restart the daemon, pods keep their network\n"

    def readyz() -> tuple[int, str]:
        status, text = healthz()
        reasons = not_ready()
        if status == 200 and not reasons:
            return 200, "ready\n"
        lines = [f"{reason['what']}; {reason['cure']}\n" for reason in reasons]
        return 503, "not ready\n" + (text if status != 200 else "") + "".join(lines)

    return {metrics_path: lambda: (200, metrics()), "/healthz": healthz, "/readyz": readyz}


class Server:
    """Listens from `start` until `stop`. Both are called from the event loop's thread."""

    def __init__(self, listener: _Listener) -> None:
        self._listener = listener
        self._thread = threading.Thread(target=listener.serve_forever, args=(NO_POLLING,), name="http", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.server_address[1])

    def stop(self) -> None:
        self._listener.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which then sees that it is to end
        self._listener.shutdown()
        self._thread.join()
        self._listener.server_close()
        self._listener.drop_all()


def start(address: str, port: int, served: Mapping[str, Page]) -> Server | Refusal:
    """Port 0 takes any free one, for tests."""
    try:
        return Server(_Listener(address, port, served))
    except OSError as error:
        return Refusal(
            Code.IO_FAILURE,
            f"metrics.port: cannot listen on {address} port {port}: {error.strerror}",
            f"`ss -ltnp sport = :{port}` shows who has it; stop that, or give --metrics-port another number,"
            " or 0 for no metrics; metrics.address must be an address of this node",
        )


class _Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: str, port: int, served: Mapping[str, Page]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.pages = served
        self._open: dict[Any, None] = {}  # in the order they came
        self._open_lock = threading.Lock()
        super().__init__((address, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_lock:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > MAX_CONNECTIONS else None
            if oldest is not None:
                self._drop(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def drop_all(self) -> None:
        with self._open_lock:
            for request in list(self._open):
                self._drop(request)

    def _drop(self, request: Any) -> None:
        """Its thread wakes up with an end of file, and closes it."""
        del self._open[request]
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was faster

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Called inside an `except`: a page that cannot be made is logged once, and breaks nothing else."""
        log.exception("fault in an HTTP page")


class _Handler(BaseHTTPRequestHandler):
    timeout = PATIENCE_SECONDS  # of each read and write
    server: _Listener
    server_version = "headcni"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            status, text = 404, "not found; there are " + ", ".join(sorted(self.server.pages)) + "\n"
        else:
            try:
                status, text = page()
            except Exception:
                self._send(500, "the page could not be made; the daemon's log says why\n", with_body)
                raise
        self._send(status, text, with_body)

    def _send(self, status: int, text: str, with_body: bool) -> None:
        body = text.encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", TEXT)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if with_body:
                self.wfile.write(body)
        except (ConnectionError, TimeoutError):
            log.debug("an HTTP client left before its answer")

    def log_message(self, format: str, *args: Any) -> None:
        """http.server's own words about requests and bad requests: for debug only."""
        log.debug("http %s", format % args)
