"""`status` as seen from within the sandbox: which parts answer, and where to reach them."""

from sandbox import paths
from sandbox.parts import PARTS


def lines() -> list[str]:
    found = []
    for part in PARTS.values():
        state = "ready" if part.ready() else "not running"
        where = "  ".join(f"{name}={value}" for name, value in part.environment().items()) if state == "ready" else ""
        found.append(f"{part.title:<22} {state:<12} {where}".rstrip())
    return [*found, f"{'Logs':<22} {paths.logs()}"]


if __name__ == "__main__":
    print("\n".join(lines()))
