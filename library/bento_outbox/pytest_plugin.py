"""pytest loads this by itself where Bento Outbox is installed: the fixture `captured_events`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bento_outbox.capturing import CapturedEvents, capture_events


@pytest.fixture
def captured_events() -> Iterator[CapturedEvents]:
    """The events that aggregates register during the test: `assert captured_events == [OrderPlaced(...)]`."""
    with capture_events() as captured:
        yield captured
