"""The TLS of Postgres, in front of a server that has none: the sandbox's Postgres has no certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from sandbox.relay import copy

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Server = Callable[[Streams], Awaitable[None]]

SSL_REQUEST = bytes.fromhex("00000008 04d2162f")


class TlsFront:
    """Lets in who asks for TLS and takes the certificate. `certificate`, with its key: may be another one later."""

    def __init__(self, server: Server, certificate: tuple[Path, Path]) -> None:
        self._server = server
        self.certificate = certificate
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[TlsFront]:
        """Listens on 127.0.0.1 while the block runs."""
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            if await reader.readexactly(len(SSL_REQUEST)) == SSL_REQUEST:
                tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                tls.load_cert_chain(*self.certificate)
                writer.write(b"S")
                await writer.start_tls(tls)
                await self._server((reader, writer))
        writer.close()


async def starting_up(client: Streams) -> None:
    """A server that gives everybody this one answer."""
    reader, writer = client
    await reader.readexactly(int.from_bytes(await reader.readexactly(4)) - 4)
    fields = b"SFATAL\0C57P03\0Mthe database system is starting up\0\0"
    writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
    await writer.drain()


def relayed_to(host: str, port: int) -> Server:
    """The server that listens there."""

    async def relay(client: Streams) -> None:
        server = await asyncio.open_connection(host, port)
        await asyncio.gather(_passed_on(client[0], server[1]), _passed_on(server[0], client[1]))

    return relay


async def _passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await copy(reader, writer)
    writer.close()
