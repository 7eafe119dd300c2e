"""The project's commands as processes, as people and pods run them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class Running:
    """A process whose output is read while it runs; each line of its standard output is a JSON object."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._news = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())
        self._errors = asyncio.create_task(_all_of(process.stderr))

    async def logged(self, event: str, *, within: float = 30.0, **fields: object) -> dict[str, Any]:
        """The first line of this event with these fields, waited for."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self.lines if line.items() >= {"event": event, **fields}.items()), None)

        try:
            async with asyncio.timeout(within), self._news:
                await self._news.wait_for(lambda: found() or self._reading.done())
        except TimeoutError:
            raise AssertionError(f"{event!r} was not logged within {within} s, but {self.lines}") from None
        line = found()
        assert line is not None, f"the process ended without logging {event!r}: {await self.finished()}"
        return line

    async def stopped_by(self, number: signal.Signals, *, within: float = 30.0) -> Finished:
        """Sends the signal and waits for the end."""
        self.process.send_signal(number)
        return await self.finished(within=within)

    async def finished(self, *, within: float = 30.0) -> Finished:
        """Waits for the end of the process."""
        async with asyncio.timeout(within):
            code = await self.process.wait()
            await self._reading
            errors = await self._errors
        return Finished(code=code, output="\n".join(map(json.dumps, self.lines)), errors=errors)

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._news:
                self.lines.append(_parsed(line.decode()))
                self._news.notify_all()
        async with self._news:
            self._news.notify_all()


def _parsed(line: str) -> dict[str, Any]:
    """The line's object; the Pulsar client writes lines of its own."""
    try:
        found: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"text": line}
    return found


async def _all_of(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    return (await stream.read()).decode()


@asynccontextmanager
async def started(program: str, *arguments: str, **variables: str) -> AsyncIterator[Running]:
    """Runs one of the distribution's scripts; killed at the end of the block if it still runs."""
    process = await asyncio.create_subprocess_exec(
        str(SCRIPTS / program),
        *arguments,
        env=environment_with(variables),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    running = Running(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await running.finished()
