"""Starts parts from within the sandbox: `python -m sandbox.inside <part>…`, run there by `up` and `exec`.

All parts start side by side, except that a part waits for those it needs. Each start is a no-op for what already runs.
"""

import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait

from sandbox.errors import SandboxError
from sandbox.parts import PARTS, Part


def start(names: list[str]) -> None:
    """Starts the parts; the first error is raised when all others have come to their end."""
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        futures: dict[str, Future[None]] = {}
        for part in (PARTS[name] for name in PARTS if name in names):
            before = [futures[name] for name in part.needs if name in futures]
            futures[part.name] = pool.submit(_start, part, before)
    for future in futures.values():
        future.result()


def _start(part: Part, before: list[Future[None]]) -> None:
    wait(before)
    if any(future.exception() for future in before):
        return
    part.start()


def main() -> None:
    try:
        start(sys.argv[1:])
    except SandboxError as error:
        sys.exit(f"sandbox: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
