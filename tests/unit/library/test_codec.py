"""The hook between JSON and the row."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bento_outbox import Codec, EventNotEncodable, MisuseError, Outbox, decode, event_type, opened, sealed
from bento_outbox.codec import PlainJson


@event_type("tests.codec.Noticed")
@dataclass
class Noticed:
    aggregate_id: str
    what: str


class Zipped:
    """An example of a codec; also tells what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def encode(self, payload: bytes, *, tenant_id: str, type: str) -> bytes:  # noqa: A002 - as in Codec
        self.calls.append((tenant_id, type))
        return sealed("zlib", zlib.compress(payload))

    def decode(self, payload: bytes, *, tenant_id: str, type: str) -> bytes:  # noqa: A002 - as in Codec
        return zlib.decompress(opened("zlib", payload))


def test_a_codec_stands_between_the_event_and_the_row() -> None:
    codec = Zipped()
    stored = Outbox(codec=codec).seal(Noticed("order-1", "paid"), tenant_id="acme")

    assert json.loads(stored.payload).keys() == {"form", "content"}
    assert codec.calls == [("acme", "tests.codec.Noticed")]
    assert stored.aggregate_id == "order-1"


def test_a_consumer_reads_it_with_the_same_codec() -> None:
    codec: Codec = Zipped()
    event = Noticed("order-1", "paid")
    stored = Outbox(codec=codec).seal(event, tenant_id="acme")

    payload = codec.decode(stored.payload, tenant_id=stored.tenant_id, type=stored.type)

    assert decode(stored.type, stored.schema_ver, payload) == event


@pytest.mark.parametrize("nonsense", [b"", b"ciphertext", b'{}, "tenant_id": "bolt"', b'"\xff"', b"[" * 100_000])
def test_a_codec_that_makes_no_json_fails_the_caller(nonsense: bytes) -> None:
    class Careless(Zipped):
        def encode(self, payload: bytes, *, tenant_id: str, type: str) -> bytes:  # noqa: A002 - as in Codec
            return nonsense

    with pytest.raises(EventNotEncodable, match=r"'tests\.codec\.Noticed' was not encoded as JSON by its codec"):
        Outbox(codec=Careless()).seal(Noticed("order-1", "paid"), tenant_id="acme")


def test_what_a_codec_raises_fails_the_caller() -> None:
    class NoKey(Zipped):
        def encode(self, payload: bytes, *, tenant_id: str, type: str) -> bytes:  # noqa: A002 - as in Codec
            raise LookupError(f"no key of {tenant_id}")

    with pytest.raises(LookupError, match="no key of acme"):
        Outbox(codec=NoKey()).seal(Noticed("order-1", "paid"), tenant_id="acme")


def test_the_usual_codec_leaves_the_payload_as_it_is() -> None:
    plain = PlainJson()

    assert plain.encode(b'{"a":1}', tenant_id="acme", type="any") == b'{"a":1}'
    assert plain.decode(b'{"a":1}', tenant_id="acme", type="any") == b'{"a":1}'


@given(content=st.binary())
def test_what_was_sealed_is_opened(content: bytes) -> None:
    assert opened("aes", sealed("aes", content)) == content


@pytest.mark.parametrize(
    "payload",
    [b"", b"no json", b"[]", b"{}", b'{"form": "aes"}', b'{"form": "aes", "content": "*"}', b'{"form": 1}', b"\xff"],
)
def test_what_was_not_sealed_is_not_opened(payload: bytes) -> None:
    with pytest.raises(MisuseError, match=r"the payload is no sealed 'aes': ."):
        opened("aes", payload)


def test_what_another_codec_sealed_is_not_opened() -> None:
    with pytest.raises(MisuseError, match="sealed as 'zlib', not as 'aes': use the codec that wrote it"):
        opened("aes", sealed("zlib", b""))
