"""A cache of its own for each test; nothing here needs root, and nothing is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import paths


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return paths.cache()
