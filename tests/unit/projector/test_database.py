"""What the errors of the database mean, and where its address comes from."""

from __future__ import annotations

import ssl
from pathlib import Path

import asyncpg
import pytest
from asyncpg.exceptions._base import DataError as DriverDataError

from outbox_projector.database import Database, FixedUrl, UrlFile, connected
from outbox_projector.database_errors import DatabaseUnavailable, explain, translated


def _state(sqlstate: str) -> asyncpg.PostgresError:
    error: asyncpg.PostgresError = asyncpg.PostgresError.new({"C": sqlstate, "M": "what the server said"})
    return error


@pytest.mark.parametrize(
    ("error", "reason", "sentence"),
    [
        (_state("28P01"), "DatabaseAuthenticationFailed", "does not accept user or password"),
        (_state("28000"), "DatabaseAuthenticationFailed", "does not accept user or password"),
        (_state("3D000"), "DatabaseNotFound", "the server has no such database"),
        (_state("42P01"), "OutboxTableMissing", "is missing: run `bento-outbox schema apply`"),
        (_state("42703"), "OutboxTableMissing", "is old: run `bento-outbox schema apply`"),
        (_state("3F000"), "OutboxTableMissing", "the schema of the outbox table is missing"),
        (_state("42501"), "DatabasePermissionDenied", "may not read and update the table"),
        (_state("25006"), "DatabaseUnreachable", "a standby, or failing over"),
        (_state("08006"), "DatabaseUnreachable", "cannot be reached"),
        (_state("53300"), "DatabaseUnreachable", "cannot be reached"),
        (_state("57P01"), "DatabaseUnreachable", "cannot be reached"),
        (_state("57P03"), "DatabaseUnreachable", "cannot be reached"),
        (_state("40001"), "DatabaseUnreachable", "cannot be reached"),
        (_state("55P03"), "DatabaseUnreachable", "cannot be reached"),
        (_state("58030"), "DatabaseUnreachable", "cannot be reached"),
        (_state("25P03"), "DatabaseUnreachable", "cannot be reached"),
        (ConnectionRefusedError("refused"), "DatabaseUnreachable", "cannot be reached"),
        (TimeoutError(), "DatabaseUnreachable", "cannot be reached"),
        (ssl.SSLError("handshake failed"), "DatabaseUnreachable", "cannot be reached"),
        (ssl.SSLCertVerificationError("certificate has expired"), "DatabaseUnreachable", "renew it, give"),
        (FileNotFoundError(2, "No such file"), "DatabaseUnreachable", "that PGSSLROOTCERT names, does not exist"),
        (asyncpg.InvalidCachedStatementError("invalid plan"), "DatabaseUnreachable", "was altered meanwhile"),
        (asyncpg.InternalClientError("cannot switch to state 15"), "DatabaseUnreachable", "cannot be reached"),
        (asyncpg.InterfaceError("connection is closed"), "DatabaseUnreachable", "cannot be reached"),
    ],
)
def test_an_error_of_the_driver_has_a_reason_and_a_cause(error: Exception, reason: str, sentence: str) -> None:
    unavailable = explain(error)

    assert unavailable is not None
    assert unavailable.reason == reason
    assert sentence in str(unavailable)
    said = str(error) if isinstance(error, asyncpg.PostgresError) else ""
    assert said in str(unavailable)


@pytest.mark.parametrize(
    "defect",
    [
        pytest.param(_state("42601"), id="syntax error"),
        pytest.param(_state("42883"), id="no such operator"),
        pytest.param(_state("0A000"), id="not supported"),
        pytest.param(_state("22P02"), id="invalid text representation"),
        pytest.param(asyncpg.exceptions.DataError("invalid input for query argument $1"), id="data error"),
        pytest.param(DriverDataError("$1"), id="argument of a wrong type"),
    ],
)
async def test_an_error_that_is_no_outage_is_not_swallowed(defect: Exception) -> None:
    assert explain(defect) is None
    with pytest.raises(type(defect)) as raised:
        async with translated():
            raise defect
    assert raised.value is defect


async def test_what_does_not_come_from_the_driver_passes_through() -> None:
    with pytest.raises(KeyError):
        async with translated():
            raise KeyError("a defect of ours")


async def test_the_drivers_error_is_kept_as_the_cause() -> None:
    refused = ConnectionRefusedError("refused")
    with pytest.raises(DatabaseUnavailable) as raised:
        async with translated():
            raise refused

    assert raised.value.__cause__ is refused


def test_a_missing_file_is_a_missing_secret_that_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="Secret 'shop' with key 'dsn' does not exist: create it") as raised:
        UrlFile(tmp_path / "url", "shop/dsn").read()

    assert raised.value.reason == "SecretNotFound"


def test_a_file_that_no_secret_fills_is_named_itself(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match=f"file {tmp_path}/url does not exist: create it"):
        UrlFile(tmp_path / "url", None).read()


def test_a_file_that_is_no_text_is_an_invalid_url(tmp_path: Path) -> None:
    (tmp_path / "url").write_bytes(b"postgresql://\xff\xfe")

    with pytest.raises(DatabaseUnavailable, match="Secret 'shop' with key 'dsn' holds no text") as raised:
        UrlFile(tmp_path / "url", "shop/dsn").read()

    assert raised.value.reason == "DatabaseUrlInvalid"


def test_a_file_that_may_not_be_read_is_not_called_missing(tmp_path: Path) -> None:
    with pytest.raises(
        DatabaseUnavailable, match="Secret 'shop' with key 'dsn' cannot be read: Is a directory"
    ) as raised:
        UrlFile(tmp_path, "shop/dsn").read()

    assert raised.value.reason == "SecretNotFound"


def test_the_line_break_at_the_end_of_a_file_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://db/shop\n")

    assert UrlFile(tmp_path / "url", "shop/url").read() == "postgresql://db/shop"


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_a_check_of_the_certificate_that_lacks_the_authority_says_what_it_needs(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    database = Database(FixedUrl(f"postgresql://127.0.0.1:1/shop?sslmode={mode}"))

    with pytest.raises(DatabaseUnavailable, match=r"verify-full need .* spec\.database\.tls .*root\.crt") as raised:
        await connected(database).__aenter__()

    assert raised.value.reason == "DatabaseUrlInvalid"


async def test_a_url_that_is_none_is_reported_without_it() -> None:
    database = Database(FixedUrl("s3cr3t-pa55word"))

    for _ in range(2):
        with pytest.raises(DatabaseUnavailable, match="cannot be parsed: its form is") as raised:
            await database().__aenter__()
        assert raised.value.reason == "DatabaseUrlInvalid"
        assert "s3cr3t" not in str(raised.value)
    await database.close()
