"""The way to Pulsar: where it is, who we are there, and whom we trust.

Credentials are files, which a Secret fills: they may be missing at first, and change at any time.

    token, certificates   read by the client whenever it connects, also by itself after a broken connection
    OAuth2 credentials    read once by each client

So a client that the broker refuses is dropped by its owner, and the next one reads everything anew: nothing that
rotates needs a restart, and a file that is missing is told as such before anything is tried.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import pulsar

from bento_outbox.errors import BusUnavailable, MisuseError
from bento_outbox.pulsar_answers import unavailable
from bento_outbox.secret_files import secret_behind

Compression = Literal["None", "LZ4", "ZSTD"]
Batching = Literal["Default", "KeyBased"]
"""KeyBased: no batch holds two keys, which Key_Shared consumers need."""


def check_service_url(url: str) -> str:
    """The URL, when it is one of a broker, or of several separated by commas. Raises MisuseError."""
    scheme, _, hosts = url.partition("://")
    try:
        valid = all(urlsplit(f"//{host}").hostname and urlsplit(f"//{host}").port != 0 for host in hosts.split(","))
    except ValueError:
        valid = False
    if not valid or scheme not in ("pulsar", "pulsar+ssl") or any(character.isspace() for character in hosts):
        raise MisuseError(f"{url!r} is no Pulsar URL: its form is pulsar://host:6650 or pulsar+ssl://host:6651")
    return url


class Authentication(Protocol):
    """Who we are."""

    @property
    def files(self) -> Sequence[Path]:
        """What has to be there before we connect."""
        ...

    def for_client(self) -> pulsar.Authentication:
        """As the client wants it. Raises BusUnavailable when a file cannot be what it should be."""
        ...


@dataclass(frozen=True, slots=True)
class Token:
    """A token, such as a JWT, as the content of a file."""

    file: Path

    @property
    def files(self) -> Sequence[Path]:
        return [self.file]

    def for_client(self) -> pulsar.Authentication:
        return pulsar.AuthenticationToken(self._read)

    def _read(self) -> str:
        """Runs on a thread of the client, where an exception would end the process."""
        try:
            return self.file.read_text(errors="replace").strip()
        except OSError:
            return ""  # the broker refuses that, and then we look for the file


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client certificate with its key, both PEM."""

    file: Path
    private_key_file: Path

    @property
    def files(self) -> Sequence[Path]:
        return [self.file, self.private_key_file]

    def for_client(self) -> pulsar.Authentication:
        return pulsar.AuthenticationTLS(str(self.file), str(self.private_key_file))


@dataclass(frozen=True, slots=True, kw_only=True)
class OAuth2:
    """The client credentials flow. credentials_file: JSON with client_id and client_secret."""

    credentials_file: Path
    issuer_url: str
    audience: str | None = None
    scope: str | None = None

    @property
    def files(self) -> Sequence[Path]:
        return [self.credentials_file]

    def for_client(self) -> pulsar.Authentication:
        try:
            known = json.loads(self.credentials_file.read_bytes())
            complete = isinstance(known["client_id"], str) and isinstance(known["client_secret"], str)
        except (ValueError, TypeError, KeyError):
            complete = False
        if not complete:
            raise BusUnavailable(
                f"{self.credentials_file} holds no OAuth2 credentials: write a JSON object with client_id and "
                f"client_secret",
                reason="BrokerAuthenticationFailed",
            )
        given = {
            "issuer_url": self.issuer_url,
            "private_key": f"file://{self.credentials_file.absolute()}",
            "audience": self.audience,
            "scope": self.scope,
        }
        return pulsar.AuthenticationOauth2(json.dumps({name: value for name, value in given.items() if value}))


@dataclass(frozen=True, slots=True, kw_only=True)
class PulsarConnection:
    """Makes clients. Raises MisuseError at once for what cannot work.

    service_url                pulsar://host:6650, or pulsar+ssl://host:6651 with TLS
    trusted_certificates_file  PEM, of the authorities that may vouch for the broker; None: those of the public web
    validate_hostname          whether the broker's certificate must bear its name
    allow_insecure             any certificate will do: for trying things out
    """

    service_url: str
    authentication: Authentication | None = None
    trusted_certificates_file: Path | None = None
    validate_hostname: bool = True
    allow_insecure: bool = False

    def __post_init__(self) -> None:
        check_service_url(self.service_url)
        needs_tls = isinstance(self.authentication, Certificate) or self.trusted_certificates_file is not None
        if needs_tls and not self.uses_tls:
            raise MisuseError(f"certificates need TLS: {self.service_url!r} must be a pulsar+ssl:// URL")

    @classmethod
    def of(cls, connection: str | PulsarConnection) -> PulsarConnection:
        """A service URL stands for a connection without credentials."""
        return cls(service_url=connection) if isinstance(connection, str) else connection

    @property
    def uses_tls(self) -> bool:
        return self.service_url.startswith("pulsar+ssl://")

    def unavailable(self, result: str, topic: str) -> BusUnavailable:
        """The client's answer as an outage. It does not tell a broker that is away from one that it may not talk to."""
        doubts = ", or its certificate is none that we trust" if self.uses_tls else ""
        doubts += ", or it does not take our credentials" if self.authentication else ""
        return unavailable(self.service_url, result, topic, doubts=doubts)

    def client(self, timeout_seconds: float) -> pulsar.Client:
        """A new one, not connected yet. Raises BusUnavailable when a file is missing."""
        self._check_files()
        trusted = self.trusted_certificates_file
        return pulsar.Client(
            self.service_url,
            authentication=None if self.authentication is None else self.authentication.for_client(),
            operation_timeout_seconds=max(1, round(timeout_seconds)),
            connection_timeout_ms=max(1000, round(timeout_seconds * 1000)),
            tls_trust_certs_file_path=None if trusted is None else str(trusted),
            tls_allow_insecure_connection=self.allow_insecure,
            tls_validate_hostname=self.validate_hostname,
            logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error),
        )

    def _check_files(self) -> None:
        files = [*(self.authentication.files if self.authentication else ()), self.trusted_certificates_file]
        for file in files:
            if file is None:
                continue
            try:
                with file.open("rb"):
                    pass
            except OSError as error:
                raise BusUnavailable(
                    f"{file} cannot be read ({error.strerror}); {secret_behind(file)}: create it",
                    reason="SecretNotFound",
                ) from error


def producer_options(compression: Compression, batching: Batching) -> dict[str, Any]:
    """As `Client.create_producer` wants them."""
    return {
        "compression_type": pulsar.CompressionType.__members__[compression.upper()],
        "batching_type": pulsar.BatchingType.__members__[batching],
    }


def close_aside(client: pulsar.Client) -> threading.Thread:
    """Closes a client that nobody uses any more, on a thread of its own, since it may take long.

    Never `Client.shutdown`: it holds the interpreter's lock while it waits for threads of the client that need the lock
    for their callbacks, and with a send under way the whole process hangs.
    """

    def close() -> None:
        with contextlib.suppress(pulsar.PulsarException):
            client.close()

    thread = threading.Thread(target=close, name="close a Pulsar client", daemon=True)
    thread.start()
    return thread
