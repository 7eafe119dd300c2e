"""Decides what to start, from what was asked for and what the environment says exists already. Nothing here acts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sandbox.errors import SandboxError
from sandbox.parts import PARTS


@dataclass(frozen=True)
class Plan:
    start: tuple[str, ...]
    """The parts to start, in order."""
    existing: tuple[str, ...]
    """The parts that were asked for and exist elsewhere."""


def plan(requested: Sequence[str], environ: Mapping[str, str]) -> Plan:
    """What to do so that all parts of `requested` (none means all) can be used."""
    unknown = [name for name in requested if name not in PARTS]
    if unknown:
        raise SandboxError(f"There is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}.")
    wanted = [part for part in PARTS.values() if not requested or part.name in requested]
    existing = [part for part in wanted if part.variable and environ.get(part.variable)]
    start = [part for part in wanted if part not in existing]
    return Plan(start=tuple(part.name for part in start), existing=tuple(part.name for part in existing))
