"""Cuts pods off from the broker: their packets to its port are answered with a reset.

The rules are made in the sandbox's private network; nothing of them is on the host.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit


@contextmanager
def broker_outage(addresses: list[str], service_url: str) -> Iterator[None]:
    """While the block runs, the pods with these addresses cannot reach the broker."""
    port = str(urlsplit(service_url).port or 6650)
    rules = [
        ["INPUT", "-s", address, "-p", "tcp", "--dport", port, "-j", "REJECT", "--reject-with", "tcp-reset"]
        for address in addresses
    ]
    made: list[list[str]] = []
    try:
        for rule in rules:
            subprocess.run(["iptables", "-w", "-I", *rule], check=True)
            made.append(rule)
        yield
    finally:
        for rule in made:
            subprocess.run(["iptables", "-w", "-D", *rule], check=True)
