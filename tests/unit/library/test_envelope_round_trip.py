"""An envelope becomes the values of a row; what the projector reads from that row is tested in contract/test_store."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import MetaData
from sqlalchemy.dialects import postgresql

from bento_outbox.table import WRITTEN, insert_statement, make_outbox_table, outbox_table, quoted, row_of
from tests.support.envelopes import envelope

_texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(total=_texts, headers=st.dictionaries(_texts, _texts), key=st.none() | _texts)
def test_the_row_holds_the_envelope_unchanged(total: str, headers: dict[str, str], key: str | None) -> None:
    payload = json.dumps({"total": total}, ensure_ascii=False).encode()

    row = row_of(envelope(payload=payload, headers=headers, ordering_key=key))

    assert row["payload"].encode() == payload
    assert (row["headers"], row["ordering_key"]) == (headers, key)


def test_a_row_has_the_columns_that_a_writer_sets_and_no_others() -> None:
    assert row_of(envelope()).keys() == set(WRITTEN)


def test_the_insert_leaves_an_event_alone_that_is_there_already() -> None:
    statement = str(insert_statement(outbox_table).compile(dialect=postgresql.dialect()))

    assert statement.endswith("ON CONFLICT (id) DO NOTHING")


def test_a_name_is_quoted_where_it_must_be_and_is_no_parameter() -> None:
    def name(table: str, schema: str | None = None) -> str:
        return quoted(make_outbox_table(MetaData(), name=table, schema=schema))

    assert name("outbox") == "outbox"
    assert name("outbox", "shop") == "shop.outbox"
    assert name("Order Events", "my shop") == '"my shop"."Order Events"'
    assert name('a"b') == '"a""b"'
    # SQLAlchemy's text() would take `:late` for a parameter.
    assert name("events :late") == r'"events \:late"'
