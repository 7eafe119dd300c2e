"""Certificates for servers on this machine."""

from __future__ import annotations

import subprocess
from pathlib import Path


def self_signed(directory: Path, name: str, *, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """A certificate of this name and address, and its key."""
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    options = f"-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name}"
    files = ["-keyout", key, "-out", certificate]
    subprocess.run(
        ["openssl", "req", *options.split(), "-addext", f"subjectAltName=IP:{address}", *files],
        check=True,
        capture_output=True,
    )
    return certificate, key
