"""Names of tables in SQL text."""

from __future__ import annotations

import pytest
from sqlalchemy import MetaData

from bento_outbox import MisuseError
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


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ({"name": ""}, "too short: 1 to 43 bytes"),
        ({"name": "o" * 44}, "too long: 1 to 43 bytes"),
        ({"name": "ö" * 22}, "too long: 1 to 43 bytes"),
        ({"schema": ""}, "the name of the schema is empty"),
    ],
)
def test_names_that_cannot_be(names: dict[str, str], complaint: str) -> None:
    """Postgres cuts long names, so the side tables of two outboxes, or of one, would be the same."""
    with pytest.raises(MisuseError, match=complaint):
        make_outbox_table(MetaData(), **names)  # type: ignore[arg-type] # no test gives both
