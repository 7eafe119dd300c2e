"""The parts of the sandbox, in the order of their start, and the rules about parts that exist already elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox import postgres, pulsar
from sandbox.errors import SandboxError


@dataclass(frozen=True)
class Part:
    name: str
    variable: str | None
    """When this is set in the environment, the part exists already and is not started."""
    title: str
    prepare: Callable[[], None]
    start: Callable[[], None]
    environment: Callable[[], Mapping[str, str]]
    needs: tuple[str, ...] = ()
    path: Callable[[], Sequence[Path]] = tuple
    """Folders with programs that a person uses with this part."""


PARTS = {
    part.name: part
    for part in (
        Part(
            name=postgres.NAME,
            variable=postgres.VARIABLE,
            title="Postgres",
            prepare=postgres.prepare,
            start=postgres.start,
            environment=postgres.environment,
            path=lambda: [postgres.binaries()],
        ),
        Part(
            name=pulsar.NAME,
            variable=pulsar.VARIABLE,
            title="Pulsar",
            prepare=pulsar.prepare,
            start=pulsar.start,
            environment=pulsar.environment,
        ),
    )
}
