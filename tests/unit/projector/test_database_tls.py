"""Whom the projector trusts to be the database: authorities in a file that may be missing, and may change."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from outbox_projector.database import Database, FixedUrl, connected
from outbox_projector.database_errors import DatabaseUnavailable
from tests.support.certificates import self_signed
from tests.support.tls_front import TlsFront, starting_up

TAKEN = "the database system is starting up"
"""What only a server says whose certificate was taken."""
REFUSED = "the certificate of the database is not trusted"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[TlsFront]:
    async with TlsFront(starting_up, self_signed(tmp_path, "server")).running() as server:
        yield server


@pytest.fixture
def trusted(tmp_path: Path, server: TlsFront, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the server's authority, as from a Secret."""
    monkeypatch.delenv("PGSSLROOTCERT", raising=False)
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "db-ca" / "ca.crt"
    file.parent.mkdir()
    renew(file, server.certificate)
    return file


def renew(trusted: Path, *servers: tuple[Path, Path]) -> None:
    """The file holds the authorities of these."""
    trusted.write_text("".join(certificate.read_text() for certificate, _ in servers))


async def attempt(server: TlsFront, mode: str | None, trusted: Path | None) -> DatabaseUnavailable:
    """How one ends."""
    query = "" if mode is None else f"?sslmode={mode}"
    url = FixedUrl(f"postgresql://outbox@127.0.0.1:{server.port}/shop{query}")
    return await knock(Database(url, trusted_certificates_file=trusted))


async def knock(database: Database) -> DatabaseUnavailable:
    with pytest.raises(DatabaseUnavailable) as raised:
        await connected(database).__aenter__()
    return raised.value


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full", None])
async def test_whom_the_authorities_vouch_for_is_trusted_and_nobody_else(
    server: TlsFront, trusted: Path, tmp_path: Path, mode: str | None
) -> None:
    """`require` as in libpq; and who names authorities without a mode wants no less than the whole check."""
    assert TAKEN in str(await attempt(server, mode, trusted))

    server.certificate = self_signed(tmp_path, "stranger")

    refused = await attempt(server, mode, trusted)
    assert REFUSED in str(refused)
    assert refused.reason == "DatabaseUnreachable"


@pytest.mark.parametrize(
    ("mode", "said"), [("require", TAKEN), ("verify-ca", TAKEN), ("verify-full", REFUSED), (None, REFUSED)]
)
async def test_the_whole_check_is_one_of_the_name_too(
    server: TlsFront, trusted: Path, tmp_path: Path, mode: str | None, said: str
) -> None:
    server.certificate = self_signed(tmp_path, "elsewhere", address="127.0.0.2")
    renew(trusted, server.certificate)

    assert said in str(await attempt(server, mode, trusted))


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer"])
async def test_a_url_that_asks_for_no_check_does_not_fit_to_authorities(
    server: TlsFront, trusted: Path, mode: str
) -> None:
    refused = await attempt(server, mode, trusted)

    assert str(refused) == (
        f"the database URL has sslmode={mode}, which checks no certificate, but trusted certificates are given: "
        f"write sslmode=verify-full, or leave them out"
    )
    assert refused.reason == "DatabaseUrlInvalid"


async def test_renewed_authorities_hold_for_the_next_connection(
    server: TlsFront, trusted: Path, tmp_path: Path
) -> None:
    url = FixedUrl(f"postgresql://outbox@127.0.0.1:{server.port}/shop?sslmode=verify-full")
    database = Database(url, trusted_certificates_file=trusted)
    assert TAKEN in str(await knock(database))

    former, server.certificate = server.certificate, self_signed(tmp_path, "renewed")
    assert REFUSED in str(await knock(database))

    renew(trusted, former, server.certificate)
    assert TAKEN in str(await knock(database))


@pytest.mark.parametrize(
    ("name", "strerror"),
    [("db-ca/missing.crt", "No such file or directory"), ("db-ca", "Is a directory")],
)
async def test_a_file_that_cannot_be_read_is_told_with_its_secret(
    server: TlsFront, trusted: Path, name: str, strerror: str
) -> None:
    file = trusted.parents[1] / name

    refused = await attempt(server, "verify-full", file)

    assert str(refused) == (
        f"{file} cannot be read ({strerror}); in a cluster it is the key {file.name!r} of the Secret "
        f"{file.parent.name!r}: create it with the certificates of the database's authorities"
    )
    assert refused.reason == "SecretNotFound"


@pytest.mark.parametrize("content", ["", "s3cr3t", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
async def test_a_file_that_holds_no_certificates_is_told_with_its_secret(
    server: TlsFront, trusted: Path, content: str
) -> None:
    file = trusted.parent / "other.crt"
    file.write_text(content)

    refused = await attempt(server, "verify-full", file)

    assert str(refused) == (
        f"{file} holds no certificates in PEM; in a cluster it is the key 'other.crt' of the Secret 'db-ca': correct it"
    )
    assert refused.reason == "DatabaseCertificatesInvalid"


async def test_a_file_that_the_environment_names_holds_where_none_is_given(
    server: TlsFront, trusted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSSLROOTCERT", str(trusted))
    assert TAKEN in str(await attempt(server, "verify-full", None))

    monkeypatch.setenv("PGSSLROOTCERT", str(self_signed(tmp_path, "stranger")[0]))
    assert REFUSED in str(await attempt(server, "verify-full", None))
    assert TAKEN in str(await attempt(server, "verify-full", trusted))
