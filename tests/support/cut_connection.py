"""A relay before the broker that can cut a connection at the moment when a message is stored and not yet answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sandbox.relay import copy

_RECEIPT = b"\x08\x07"
"""How the command SEND_RECEIPT begins in Pulsar's protocol, after eight bytes of length."""


class Relay:
    """Passes everything on, but tells clients that the broker is here."""

    def __init__(self, broker: str) -> None:
        """broker: host:port."""
        self._broker = broker
        self._address = ""
        self.cuts = 0
        self._cut_next = False

    @property
    def service_url(self) -> str:
        return f"pulsar://{self._address}"

    def cut_at_the_next_receipt(self) -> None:
        """The message is stored, its sender never hears of it, and connects again."""
        self._cut_next = True

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until one of its ends closes it."""
        upstream, to_broker = await asyncio.open_connection(*self._broker.split(":"))
        tasks = [
            asyncio.create_task(_pass_on(reader, to_broker)),
            asyncio.create_task(self._answer(upstream, writer)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (writer, to_broker):
            end.transport.abort()

    async def _answer(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                length = await upstream.readexactly(4)
                frame = length + await upstream.readexactly(int.from_bytes(length))
                if self._cut_next and frame[8:10] == _RECEIPT:
                    self._cut_next = False
                    self.cuts += 1
                    return
                # An address of another length would need the lengths around it changed too.
                writer.write(frame.replace(self._broker.encode(), self._address.encode()))
                await writer.drain()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Relay]:
        """Listens while the block runs."""
        server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        self._address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server:
            yield self

    @property
    def can_stand_in(self) -> bool:
        return len(self._address) == len(self._broker)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await copy(reader, writer)
