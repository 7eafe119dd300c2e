"""docs/write-side.md says what works: its blocks are run in order, in one namespace, on the real parts."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from bento_outbox.testing import capture_events
from bento_outbox.waking import waker_of
from tests.support.programs import run

PAGE = Path(__file__).parents[2] / "docs" / "write-side.md"
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROLES = ("shop_app", "acme_app")
INSTALLED = ("pip install", "export DATABASE_URL=")
"""Lines of shell blocks that this environment has done already."""


@pytest.fixture
async def _own_roles(empty_engine: AsyncEngine) -> AsyncIterator[None]:
    """Roles belong to the server, not to the database."""
    await _drop_roles(empty_engine)
    yield
    await _drop_roles(empty_engine)


async def _drop_roles(engine: AsyncEngine) -> None:
    for role in ROLES:
        async with engine.begin() as connection:
            if (await connection.execute(text(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"))).first():
                await connection.execute(text(f"DROP OWNED BY {role} CASCADE"))
                await connection.execute(text(f"DROP ROLE {role}"))


@pytest.fixture
def namespace() -> Iterator[types.ModuleType]:
    """A module, since classes must have one that can be found."""
    module = sys.modules["write_side_tutorial"] = types.ModuleType("write_side_tutorial")
    yield module
    del sys.modules["write_side_tutorial"]


@pytest.mark.usefixtures("_own_roles")
async def test_every_block_of_the_page_works(
    namespace: types.ModuleType, empty_database_url: str, pulsar_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database_url)
    monkeypatch.setenv("PULSAR_URL", pulsar_url)
    page = PAGE.read_text()
    # A page without blocks would pass as well.
    assert len(BLOCK.findall(page)) > 20
    try:
        for block in BLOCK.finditer(page):
            if block[1] == "sh":
                await _run_shell(block[2], empty_database_url)
            else:
                await _run_python(block[2], page.count("\n", 0, block.start(2)), vars(namespace))
        for name, function in list(vars(namespace).items()):
            if name.startswith("test_"):
                with capture_events() as captured:
                    function(captured)
    finally:
        if hasattr(namespace, "engine"):
            await waker_of(namespace.engine.sync_engine).drained()  # its connection would outlive the engine
            await namespace.engine.dispose()


async def _run_shell(commands: str, database_url: str) -> None:
    script = "\n".join(line for line in commands.splitlines() if not line.startswith(INSTALLED))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    finished = await run("bash", "-euc", script, DATABASE_URL=database_url, PATH=path)
    assert finished.code == 0, finished.errors


async def _run_python(source: str, lines_before: int, names: dict[str, object]) -> None:
    code = compile("\n" * lines_before + source, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    # Evaluated, a block that awaits is a coroutine.
    ran = eval(code, names)
    if inspect.iscoroutine(ran):
        await ran
