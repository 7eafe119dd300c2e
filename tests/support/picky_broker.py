"""A broker that lets nobody in, but takes down who knocked: what the client sends for its connection, and when.

Enough of Pulsar's protocol for that; the sandbox's broker asks nobody who he is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable


class PickyBroker:
    """knocks: for each connection, the name in the client's certificate, if any, and its first command."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._port = 0
        self.knocks: list[tuple[str, bytes]] = []
        self._knocked = asyncio.Condition()

    @property
    def service_url(self) -> str:
        return f"pulsar{'+ssl' if self._tls else ''}://127.0.0.1:{self._port}"

    async def knocked(self, like: Callable[[tuple[str, bytes]], bool]) -> None:
        """Returns once such a connection has come."""
        async with self._knocked:
            await self._knocked.wait_for(lambda: any(map(like, self.knocks)))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[PickyBroker]:
        """Listens while the block runs."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._tls)
        self._port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            command = await reader.readexactly(int.from_bytes(await reader.readexactly(4)))
            certificate = writer.get_extra_info("peercert") or {"subject": ()}
            names = [value for part in certificate["subject"] for field, value in part if field == "commonName"]
            async with self._knocked:
                self.knocks.append((names[0] if names else "", command))
                self._knocked.notify_all()
        writer.close()
