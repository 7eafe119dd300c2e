"""Results in docs/benchmarks.md: `python -m bench --write` puts them there, nobody types them.

Each benchmark has a section of its own, between two comments that name it; a run replaces what is between them.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from bench.figures import Figures

PAGE = Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md"


def circumstances() -> str:
    """Where and when this runs, in a sentence; call it before the benchmark loads the machine."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=PAGE.parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit or 'unknown'}, {os.cpu_count()} cores, "
        f"Linux {platform.release()}, Python {platform.python_version()}, load average {os.getloadavg()[0]:.1f} before."
    )


def write(name: str, title: str, figures: Figures, circumstances: str, page: Path = PAGE) -> None:
    """Replaces the section of this benchmark, or adds one at the end."""
    begin, end = f"<!-- results of {name} -->", f"<!-- end of {name} -->"
    section = "\n".join([begin, f"### {name}", "", title, "", circumstances, "", *figures.table(), "", end])
    text = page.read_text()
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    replaced = pattern.sub(lambda _: section, text) if pattern.search(text) else f"{text.rstrip()}\n\n{section}\n"
    page.write_text(replaced)
