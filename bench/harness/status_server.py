"""Stands for the API server: takes what a projector reports, and counts the requests.

The projector finds it as a pod does, by two variables and the files of its service account. They lie where pods have
them, which is a folder of the sandbox's own.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import patch

from outbox_projector.kubernetes_status import SERVICE_ACCOUNT


class Requests:
    """How many there were, of all kinds."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()

    def came(self) -> None:
        with self._lock:
            self.count += 1


@contextmanager
def status_server() -> Iterator[Requests]:
    """Processes that are started meanwhile report to it."""
    requests = Requests()
    SERVICE_ACCOUNT.mkdir(parents=True)
    try:
        (SERVICE_ACCOUNT / "token").write_text("token")
        with ThreadingHTTPServer(("127.0.0.1", 0), _handler(requests)) as server:
            server.socket = _with_tls().wrap_socket(server.socket, server_side=True)
            address = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(server.server_port)}
            threading.Thread(target=server.serve_forever, daemon=True, name="status server").start()
            with patch.dict(os.environ, address):
                yield requests
            server.shutdown()
    finally:
        shutil.rmtree(SERVICE_ACCOUNT)


def _with_tls() -> ssl.SSLContext:
    certificate, key = SERVICE_ACCOUNT / "ca.crt", SERVICE_ACCOUNT / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


def _handler(requests: Requests) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PATCH(self) -> None:
            requests.came()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_PATCH

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the standard library
            """Nothing: it would be in the way of the figures."""

    return Handler
