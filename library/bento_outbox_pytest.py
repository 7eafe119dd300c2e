"""pytest loads this by itself where Bento Outbox is installed: the fixture `captured_events`.

A module beside the package, not in it: every project that has us installed, perhaps as a dependency of a dependency,
loads this at each start of pytest, and most never use it. The library is imported with the first use of the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bento_outbox.capturing import CapturedEvents


@pytest.fixture
def captured_events() -> Iterator[CapturedEvents]:
    """The events that aggregates register during the test: `assert captured_events == [OrderPlaced(...)]`."""
    from bento_outbox.capturing import capture_events

    with capture_events() as captured:
        yield captured
