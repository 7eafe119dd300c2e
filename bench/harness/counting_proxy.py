"""Stands between a program and Postgres and counts: works with any server, whatever it is configured to record.

Counted is each execution that a client asks for, BEGIN and COMMIT included. The proxy speaks no TLS, and says so.
"""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

ENCRYPTION_REQUESTS = {80877103, 80877104}
"""What a client that would like TLS or GSSAPI sends in place of a start-up message."""
EXECUTIONS = {b"Q", b"E"}
"""A simple query, and Execute of the extended protocol."""


class Counts:
    """Of all connections together."""

    def __init__(self) -> None:
        self.statements = 0
        self.connections = 0
        self._lock = threading.Lock()

    def executed(self) -> None:
        with self._lock:
            self.statements += 1

    def connected(self, change: int) -> None:
        with self._lock:
            self.connections += change


@contextmanager
def counted(database_url: str) -> Iterator[tuple[str, Counts]]:
    """The URL to use instead, and what is counted of those who use it."""
    address = urlsplit(database_url)
    counts = Counts()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((address.hostname or "", address.port or 5432)) as server:
                counts.connected(1)
                try:
                    _relay(self.request, server, counts)
                finally:
                    counts.connected(-1)

    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True, name="counting proxy").start()
        credentials, _, _ = address.netloc.rpartition("@")
        netloc = f"{credentials}@127.0.0.1:{proxy.server_address[1]}"
        try:
            yield urlunsplit(address._replace(netloc=netloc)), counts
        finally:
            proxy.shutdown()


def _relay(client: socket.socket, server: socket.socket, counts: Counts) -> None:
    """Until one side ends."""
    requests = client.makefile("rb")
    while True:
        (length,) = struct.unpack("!I", requests.read(4))
        body = requests.read(length - 4)
        if struct.unpack("!I", body[:4])[0] not in ENCRYPTION_REQUESTS:
            break
        client.sendall(b"N")
    server.sendall(struct.pack("!I", length) + body)
    threading.Thread(target=_copy, args=(server, client), daemon=True, name="answers").start()
    while len(header := requests.read(5)) == 5:
        if header[:1] in EXECUTIONS:
            counts.executed()
        server.sendall(header + requests.read(struct.unpack("!I", header[1:])[0] - 4))


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # one side has gone
