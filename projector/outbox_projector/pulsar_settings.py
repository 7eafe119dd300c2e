"""The settings about Pulsar: where it is, who we are there, whom we trust, and how messages look and are batched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from bento_outbox import MisuseError
from bento_outbox.cloudevents import check_source
from bento_outbox.pulsar_bus import DEFAULT_TOPIC, check_topic_template
from bento_outbox.pulsar_client import (
    Authentication,
    Batching,
    Certificate,
    Compression,
    OAuth2,
    PulsarConnection,
    Token,
    check_service_url,
)

CHECKS = {
    "pulsar_service_url": check_service_url,
    "pulsar_topic": check_topic_template,
    "pulsar_cloudevents_source": check_source,
}
"""What a value has to be besides its type; each raises MisuseError."""


class PulsarSettings(Struct, frozen=True, kw_only=True):
    """A part of `Settings`."""

    pulsar_service_url: str
    pulsar_topic: str = DEFAULT_TOPIC
    """Template with {tenant} and {type}."""
    pulsar_timeout_seconds: Annotated[int, Meta(ge=1, le=60)] = 10
    """From a send to the broker's answer; an outage is noticed no earlier. Below shutdown_grace_seconds."""

    pulsar_token_file: Path | None = None
    """File with a token, read again for each connection. Only one of this, a certificate and OAuth2."""
    pulsar_certificate_file: Path | None = None
    """PEM file with our certificate, read again for each connection."""
    pulsar_private_key_file: Path | None = None
    """PEM file with the key of the certificate."""
    pulsar_oauth2_credentials_file: Path | None = None
    """JSON file with client_id and client_secret, read again when the broker refuses us."""
    pulsar_oauth2_issuer_url: Annotated[str, Meta(min_length=1)] | None = None
    pulsar_oauth2_audience: str | None = None
    pulsar_oauth2_scope: str | None = None
    pulsar_trusted_certificates_file: Path | None = None
    """PEM file of the authorities that may vouch for the broker; unset: those of the public web."""
    pulsar_validate_hostname: bool = True
    """Whether the broker's certificate must bear its name."""
    pulsar_allow_insecure: bool = False
    """Whether any certificate of the broker will do: for trying things out."""

    pulsar_compression: Compression = "None"
    """Of batches. LZ4 takes little CPU; ZSTD makes them smaller."""
    pulsar_batching: Batching = "Default"
    """KeyBased: no batch holds two keys, which Key_Shared consumers need; more, smaller batches."""
    pulsar_cloudevents_source: str | None = None
    """URI reference with {tenant}: messages are CloudEvents of this source; unset: they are none."""

    def __post_init__(self) -> None:
        self.pulsar_connection()

    def pulsar_connection(self) -> PulsarConnection:
        """As the settings want it. Raises MisuseError when they do not fit together."""
        ways = [way for way in (self._token(), self._certificate(), self._oauth2()) if way is not None]
        if len(ways) > 1:
            raise MisuseError(
                "set only one of OUTBOX_PULSAR_TOKEN_FILE, OUTBOX_PULSAR_CERTIFICATE_FILE and "
                "OUTBOX_PULSAR_OAUTH2_CREDENTIALS_FILE"
            )
        return PulsarConnection(
            service_url=self.pulsar_service_url,
            authentication=ways[0] if ways else None,
            trusted_certificates_file=self.pulsar_trusted_certificates_file,
            validate_hostname=self.pulsar_validate_hostname,
            allow_insecure=self.pulsar_allow_insecure,
        )

    def _token(self) -> Authentication | None:
        return None if self.pulsar_token_file is None else Token(self.pulsar_token_file)

    def _certificate(self) -> Authentication | None:
        certificate, key = self.pulsar_certificate_file, self.pulsar_private_key_file
        if certificate is not None and key is not None:
            return Certificate(certificate, key)
        if certificate is not None or key is not None:
            raise MisuseError("set both or none of OUTBOX_PULSAR_CERTIFICATE_FILE and OUTBOX_PULSAR_PRIVATE_KEY_FILE")
        return None

    def _oauth2(self) -> Authentication | None:
        file, issuer = self.pulsar_oauth2_credentials_file, self.pulsar_oauth2_issuer_url
        if file is not None and issuer is not None:
            return OAuth2(
                credentials_file=file,
                issuer_url=issuer,
                audience=self.pulsar_oauth2_audience,
                scope=self.pulsar_oauth2_scope,
            )
        if file is not None or issuer is not None:
            raise MisuseError(
                "set both or none of OUTBOX_PULSAR_OAUTH2_CREDENTIALS_FILE and OUTBOX_PULSAR_OAUTH2_ISSUER_URL"
            )
        return None
