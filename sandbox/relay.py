"""Lets the sandbox reach one existing server outside: `python -m sandbox.relay <listen> <port> <host> <port>`.

It listens in the private network and then moves itself into the host's, where it opens a connection for each one that
comes in: nothing else of the host becomes visible, and no address or rule is added to it.
"""

import asyncio
import contextlib
import ctypes
import os
import socket
import subprocess
import sys

from sandbox import network, paths

CLONE_NEWNET = 0x40000000


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, to its end."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copies one direction to its end, and tells the other side about the end."""
    with contextlib.suppress(ConnectionError):
        await copy(reader, writer)
        writer.write_eof()


async def serve(listening: socket.socket, host: str, port: int) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            try:
                there, back = await asyncio.open_connection(host, port)
            except OSError as error:
                # The connection is closed, which its client reports in its own words.
                print(f"{host}:{port} cannot be reached: {error}", flush=True)
                return
            with contextlib.closing(back):
                await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(connected, sock=listening)
    await server.serve_forever()


def leave_private_network() -> None:
    with paths.OUTSIDE_NETWORK.open() as outside:
        if ctypes.CDLL(None, use_errno=True).setns(outside.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main(listen: str, port: int, host: str, target_port: int) -> None:
    if not listen.startswith("127.") and listen != network.NODE:
        subprocess.run(["ip", "address", "replace", f"{listen}/32", "dev", "lo"], check=True)
    listening = socket.create_server((listen, port))
    leave_private_network()
    asyncio.run(serve(listening, host, target_port))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
