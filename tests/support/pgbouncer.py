"""The real pgbouncer, before the real Postgres."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
from aiohttp.test_utils import unused_port

from bento_outbox.database_url import parse_database_url
from tests.support.waiting import eventually

PoolMode = Literal["session", "transaction", "statement"]
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")

CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = {pool_mode}
"""


@asynccontextmanager
async def pgbouncer(database_url: str, folder: Path, pool_mode: PoolMode) -> AsyncIterator[str]:
    """Runs it until the end of the block; the URL of the same database through it."""
    if PROGRAM is None:
        pytest.fail("this test needs pgbouncer: `apt-get install pgbouncer`, or start the sandbox anew", pytrace=False)
    server, port = parse_database_url(database_url), unused_port()
    file = folder / "pgbouncer.ini"
    file.write_text(
        CONFIGURATION.format(
            host=server.host,
            port=server.port or 5432,
            user=server.username,
            password=server.password,
            listen_port=port,
            pool_mode=pool_mode,
        )
    )
    account = ["-u", "nobody"] if os.geteuid() == 0 else []
    process = await asyncio.create_subprocess_exec(PROGRAM, "-q", *account, str(file))
    try:
        await eventually(lambda: _answers(port))
        yield server.set(drivername="postgresql", host="127.0.0.1", port=port).render_as_string(hide_password=False)
    finally:
        process.terminate()
        await process.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    await writer.wait_closed()
    return True
