"""Names of tables in SQL text."""

from __future__ import annotations

from sqlalchemy import MetaData

from bento_outbox.table import make_outbox_table, quoted


def test_a_name_is_quoted_where_it_must_be_and_is_no_parameter() -> None:
    def name(table: str, schema: str | None = None) -> str:
        return quoted(make_outbox_table(MetaData(), name=table, schema=schema))

    assert name("outbox") == "outbox"
    assert name("outbox", "shop") == "shop.outbox"
    assert name("Order Events", "my shop") == '"my shop"."Order Events"'
    assert name('a"b') == '"a""b"'
    # SQLAlchemy's text() would take `:late` for a parameter.
    assert name("events :late") == r'"events \:late"'
