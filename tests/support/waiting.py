"""Waiting for something that another task or process does: bounded, and as short as it can be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

BETWEEN_LOOKS_SECONDS = 0.02


async def eventually(look: Callable[[], Awaitable[Any]], *, within: float = 30.0) -> Any:
    """The first true answer of `look`; fails when there is none `within` seconds."""
    answer: Any = None
    try:
        async with asyncio.timeout(within):
            while not (answer := await look()):  # noqa: ASYNC110 - what is awaited is in another process
                await asyncio.sleep(BETWEEN_LOOKS_SECONDS)
    except TimeoutError:
        raise AssertionError(f"nothing within {within} s: the last answer was {answer!r}") from None
    return answer
