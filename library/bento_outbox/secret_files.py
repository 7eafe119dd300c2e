"""Files that Secrets fill, as the operator has them mounted: <Secret>/<key>. So a sentence about one can name both."""

from __future__ import annotations

from pathlib import Path


def secret_behind(file: Path) -> str:
    """What to look for where the file is not as it should be; a part of a sentence."""
    return f"in a cluster it is the key {file.name!r} of the Secret {file.parent.name!r}"
