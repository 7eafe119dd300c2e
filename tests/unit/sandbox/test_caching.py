"""What is in the cache is complete; names follow content."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox import caching


def test_a_build_runs_once(cache: Path) -> None:
    runs = []

    def build(scratch: Path) -> None:
        runs.append(scratch)
        (scratch / "program").write_text("x")

    first = caching.built("thing-1", build)
    assert caching.built("thing-1", build) == first == cache / "thing-1"
    assert len(runs) == 1


def test_a_build_that_fails_leaves_nothing_to_be_taken_for_complete(cache: Path) -> None:
    def fail(scratch: Path) -> None:
        (scratch / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        caching.built("thing-1", fail)
    assert not (cache / "thing-1").exists()

    def succeed(scratch: Path) -> None:
        assert list(scratch.iterdir()) == []

    assert caching.built("thing-1", succeed).exists()


def test_a_digest_follows_names_and_content_only(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.py").write_text("one")
    first = caching.digest(folder)
    (folder / "a.py").touch()
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("compiled")
    assert caching.digest(folder) == first
    (folder / "a.py").write_text("two")
    changed = caching.digest(folder)
    (folder / "a.py").rename(folder / "b.py")
    assert len({first, changed, caching.digest(folder), caching.digest(folder, salt=["2"])}) == 4


def test_the_lock_tells_who_holds_it(cache: Path) -> None:
    with caching.locked():
        assert int((cache / "lock").read_text()) > 1
