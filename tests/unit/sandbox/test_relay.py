"""The relay copies both directions to their ends."""

from __future__ import annotations

import asyncio
import socket

from sandbox import relay


async def test_what_is_sent_comes_back_and_ends_are_passed_on() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.read()).upper())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    serving = asyncio.create_task(relay.serve(listening, *server.sockets[0].getsockname()))
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.read() == b"HELLO"
    writer.close()
    await writer.wait_closed()
    serving.cancel()
    server.close()
    await asyncio.gather(serving, return_exceptions=True)


async def test_a_connection_to_nowhere_is_closed() -> None:
    unused = socket.create_server(("127.0.0.1", 0))
    nowhere = unused.getsockname()
    unused.close()
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    serving = asyncio.create_task(relay.serve(listening, *nowhere))
    reader, writer = await asyncio.open_connection(*address)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
