"""Text on its way into a column or a header: what Postgres or a message cannot hold fails here, where it is said."""

from __future__ import annotations

from bento_outbox.errors import EventNotEncodable, MisuseError

LONGEST_TOPIC = 500
"""Characters of a topic, and of a type, which may be a part of one. What the projector knows of a topic is kept under
its name, and an entry of an index has room for 2,700 bytes."""


def stored_name(what: str, value: object) -> str:
    """The same for a topic or a type, which is bounded. Raises MisuseError when it is longer."""
    name = stored_text(what, value)
    if len(name) > LONGEST_TOPIC:
        raise MisuseError(f"{what} has {len(name)} characters: at most {LONGEST_TOPIC} are possible")
    return name


def stored_text(what: str, value: object) -> str:
    """The value, when it can be stored, as plain text. what: names it in the error, such as `ordering_key`.

    A member of `class Tenant(str, Enum)` is text, but written into other text it is `Tenant.ACME`, and in JSON `acme`.
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
    return str.__str__(value)
