"""Our own side: `outbox-projector run`, the process that a pod runs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.harness.database import TENANT
from bench.harness.process import Process

PROGRAM = (Path(sys.executable).with_name("outbox-projector"),)


@contextmanager
def projector(
    database_url: str,
    topic: str,
    *,
    tenant: str = TENANT,
    program: Sequence[str | Path] = PROGRAM,
    **settings: str | int,
) -> Iterator[Process]:
    """Runs it; exactly once and in order, all else as it comes but for `settings`, by the names in docs/projector.md
    without the OUTBOX_."""
    variables = {
        "TENANT_ID": tenant,
        "DATABASE_URL": database_url,
        "PULSAR_SERVICE_URL": os.environ["PULSAR_URL"],
        "PULSAR_TOPIC": topic,
        "GUARANTEE": "ExactlyOnce",
        "HTTP_PORT": 0,
        "LOG_LEVEL": "WARNING",
        **{name.upper(): value for name, value in settings.items()},
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OUTBOX_")}
    env = clean | {f"OUTBOX_{name}": str(value) for name, value in variables.items()}
    with tempfile.TemporaryDirectory(prefix="bench-projector-") as folder:
        home = Path(folder)
        with Process([*program, "run"], env=env, log=home / "log", cwd=home) as process:
            yield process
