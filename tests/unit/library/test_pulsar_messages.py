"""Messages as the client has them."""

from __future__ import annotations

import pytest

from bento_outbox.message_form import message_of
from bento_outbox.pulsar_messages import built
from tests.support.envelopes import envelope


def test_a_message_is_built_of_what_can_be_encoded() -> None:
    form = message_of(envelope(headers={"käse": "🎉"}))
    message = built(form)

    assert (message.data(), message.partition_key(), message.properties()) == (form.payload, form.key, form.properties)


def test_a_text_that_has_no_bytes_is_told_from_a_defect() -> None:
    with pytest.raises(UnicodeEncodeError):
        built(message_of(envelope(headers={"note": "\ud800"})))
    with pytest.raises(TypeError):
        built(message_of(envelope(headers={"note": "x"})), sequence_id="no number")  # type: ignore[arg-type] # that is the point
