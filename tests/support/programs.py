"""The project's commands as processes, as people and pods run them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A process that has ended."""

    code: int
    output: str
    errors: str


def environment_with(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without the project's own variables, and with `variables`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OUTBOX_", "DATABASE_", "PG"))}
    return clean | dict(variables)


async def run(program: str, *arguments: str, given: str = "", **variables: str) -> Finished:
    """Runs one of the distribution's scripts, or a program of the path, to its end."""
    script = SCRIPTS / program
    process = await asyncio.create_subprocess_exec(
        str(script) if script.exists() else program,
        *arguments,
        env=environment_with(variables),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(given.encode())
    assert process.returncode is not None
    return Finished(code=process.returncode, output=output.decode(), errors=errors.decode())
