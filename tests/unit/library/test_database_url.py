"""Database URLs: the one form that is taken, and that no message ever shows one."""

from __future__ import annotations

import traceback

import pytest

from bento_outbox import MisuseError
from bento_outbox.database_address import parse_database_address
from bento_outbox.database_url import parse_database_url

SECRET = "s3cr3t-pa55word"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_every_common_name_of_postgres_is_taken(scheme: str) -> None:
    url = parse_database_url(f"{scheme}://orders:{SECRET}@db.example:6432/shop\n")

    assert url.drivername == "postgresql+asyncpg"
    assert (url.host, url.port, url.username, url.password, url.database) == (
        *("db.example", 6432, "orders", SECRET, "shop"),
    )


def test_a_password_with_special_characters_is_given_percent_encoded() -> None:
    assert parse_database_url("postgresql://orders:p%40ss%2Fw%3Ard@db/shop").password == "p@ss/w:rd"


@pytest.mark.parametrize("password", ["p/s?w:r#d", "p@ss", "a:b", ""])
def test_a_password_may_also_hold_them_as_they_are(password: str) -> None:
    url = parse_database_url(f"postgresql://orders:{password}@db:6432/shop")

    assert (url.host, url.port, url.username, url.password, url.database) == ("db", 6432, "orders", password, "shop")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("[::1]:6432", "::1"),
        ("[::1]", "::1"),
        ("10.0.0.1", "10.0.0.1"),
        (f"%2F{'d' * 64}", f"/{'d' * 64}"),
    ],
)
def test_the_host_may_be_an_address_or_the_folder_of_a_socket(text: str, host: str) -> None:
    assert parse_database_url(f"postgresql://orders@{text}/shop").host == host


def test_the_address_does_not_show_its_password() -> None:
    assert SECRET not in repr(parse_database_address(f"postgresql://orders:{SECRET}@db/shop"))


def test_sslmode_as_libpq_writes_it_is_understood() -> None:
    url = parse_database_url("postgresql://orders@db/shop?sslmode=require")

    assert dict(url.query) == {"ssl": "require"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "cannot be parsed"),
        (SECRET, "cannot be parsed"),
        (f"postgresql://orders:{SECRET}@db:port/shop", "cannot be parsed"),
        (f"postgresql://orders:{SECRET}@db:99999/shop", "port 99999"),
        (f"mysql://orders:{SECRET}@db/shop", "begins with mysql://"),
        (f"mysql+pymysql://orders:{SECRET}@db/shop", r"begins with mysql\+pymysql://"),
        (f"postgresql://orders:{SECRET}@/shop", "names no host"),
        (f"postgresql://orders:{SECRET}@db..example/shop", "names a host that can be none"),
        (f"postgresql://orders:{SECRET}@{'d' * 64}/shop", "names a host that can be none"),
        (f"postgresql://orders:{SECRET}@db", "names no database"),
        (f"postgresql://orders:{SECRET}@db/shop?sslcert={SECRET}", "parameter 'sslcert'"),
        (f"postgresql://orders:{SECRET}@db/shop?sslmode={SECRET}", "sslmode"),
    ],
)
def test_what_is_wrong_is_said_without_the_url(text: str, complaint: str) -> None:
    with pytest.raises(MisuseError, match=complaint) as raised:
        parse_database_url(text)

    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert "postgresql://user:password@host:5432/database" in str(raised.value)
