"""Text on its way into a column or a header: what Postgres or a message cannot hold fails here, where it is said."""

from __future__ import annotations

from bento_outbox.errors import EventNotEncodable, MisuseError


def stored_text(what: str, value: object) -> str:
    """The value, when it can be stored. what: names it in the error, such as `ordering_key`.

    Raises MisuseError when it is no text, EventNotEncodable when no text column takes it.
    """
    if not isinstance(value, str):
        raise MisuseError(f"{what} is {value!r}: it must be text")
    if "\0" in value:
        raise EventNotEncodable(f"{what} is {value!r}: it holds the character NUL, which Postgres cannot store")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise EventNotEncodable(f"{what} is {value!r}: it cannot be written in UTF-8") from error
    return value
