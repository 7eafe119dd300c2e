"""A hook between JSON and the row: encryption, compression, or whatever the payload needs at rest.

The payload column is JSON, so what a codec returns must be JSON again; `sealed` and `opened` wrap arbitrary bytes.
The projector publishes what is stored, so consumers need the codec as well.
"""

from __future__ import annotations

import base64
from typing import Protocol

import msgspec

from bento_outbox.errors import MisuseError


class Codec(Protocol):
    """Turns the JSON of an event into the JSON of the row, and back. Both must be pure functions of their arguments."""

    def encode(self, payload: bytes, *, tenant_id: str, type: str) -> bytes:  # noqa: A002 - as the column is called
        """The JSON to store. May raise; that fails the caller's request, before anything is stored."""
        ...

    def decode(self, payload: bytes, *, tenant_id: str, type: str) -> bytes:  # noqa: A002 - as the column is called
        """The JSON that was encoded."""
        ...


class PlainJson:
    """The codec that leaves the payload as it is."""

    def encode(self, payload: bytes, *, tenant_id: str, type: str) -> bytes:  # noqa: A002 - see Codec
        return payload

    def decode(self, payload: bytes, *, tenant_id: str, type: str) -> bytes:  # noqa: A002 - see Codec
        return payload


def sealed(form: str, content: bytes) -> bytes:
    """Arbitrary bytes as JSON: {"form": …, "content": base64}. `form` tells a reader how to open it."""
    return msgspec.json.encode({"form": form, "content": base64.b64encode(content).decode()})


def opened(form: str, payload: bytes) -> bytes:
    """The bytes that `sealed` wrapped. Raises MisuseError when the payload is not of this form."""
    try:
        wrapped = msgspec.json.decode(payload, type=dict[str, str])
        if wrapped["form"] == form:
            return base64.b64decode(wrapped["content"], validate=True)
    except (msgspec.DecodeError, KeyError, ValueError) as error:
        raise MisuseError(f"the payload is no sealed {form!r}: {error}") from error
    raise MisuseError(f"the payload is sealed as {wrapped['form']!r}, not as {form!r}: use the codec that wrote it")
