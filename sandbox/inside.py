"""What happens within the sandbox: `python -m sandbox.inside <plan>` is run there by `up`, `exec` and `shell`.

All parts start side by side, except that a part waits for those it needs. Each start is a no-op for what already runs.
"""

import json
import socket
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict

from sandbox import paths
from sandbox.daemons import Daemon
from sandbox.errors import SandboxError
from sandbox.parts import PARTS, Part
from sandbox.rules import Plan, Relay


def encoded(plan: Plan) -> str:
    return json.dumps(asdict(plan))


def decoded(text: str) -> Plan:
    fields = json.loads(text)
    return Plan(
        start=tuple(fields["start"]),
        existing=tuple(fields["existing"]),
        relays=tuple(Relay(**relay) for relay in fields["relays"]),
    )


def start(plan: Plan) -> None:
    """Starts the parts and relays; the first error is raised when all others have come to their end."""
    with ThreadPoolExecutor(max_workers=len(PARTS)) as pool:
        futures: dict[str, Future[None]] = {}
        for part in (PARTS[name] for name in PARTS if name in plan.start):
            before = [futures[name] for name in part.needs if name in futures]
            futures[part.name] = pool.submit(_start, part, before)
        for relay in plan.relays:
            _start_relay(relay)
    for future in futures.values():
        future.result()


def _start(part: Part, before: list[Future[None]]) -> None:
    wait(before)
    if not any(future.exception() for future in before):
        part.start()


def _start_relay(relay: Relay) -> None:
    daemon = Daemon(
        f"relay-{relay.target}-{relay.port}",
        [sys.executable, "-m", "sandbox.relay", *relay.arguments],
        env={"PYTHONPATH": str(paths.PROJECT)},
    )
    daemon.start()
    daemon.wait(lambda: _connects(relay.listen, relay.port), seconds=20)


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def main() -> None:
    try:
        start(decoded(sys.argv[1]))
    except SandboxError as error:
        sys.exit(f"sandbox: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
