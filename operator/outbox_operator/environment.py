"""The environment of a projector: one line per setting, with the field of the spec that it comes from.

A new field of the spec is one line in `FROM_SPEC`, or in `FROM_SECRETS` if it refers to a Secret. A field that has no
value, since it has neither been set nor a default, leaves its variable out, and the projector's own default holds. What
each means: docs/projector.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from outbox_operator.keys import Manifest

HTTP_PORT: Final = 8080
DATABASE_URL_DIRECTORY: Final = "/var/run/outbox/database"
DATABASE_TLS_DIRECTORY: Final = "/var/run/outbox/database-tls"
PULSAR_DIRECTORY: Final = "/var/run/outbox/pulsar"
"""In these two each key of a Secret is a file, <Secret>/<key>: a projector that misses one names both."""
SHUTDOWN_GRACE_SECONDS: Final = 20
"""Less than the pod's own grace, so that the projector ends its own way before the kubelet kills it."""

FROM_SPEC: Final[Mapping[str, str]] = {
    "TENANT_ID": "tenantId",
    "DATABASE_SCHEMA": "database.schema",
    "DATABASE_TABLE": "database.table",
    "PULSAR_SERVICE_URL": "pulsar.serviceUrl",
    "PULSAR_TOPIC": "pulsar.topic",
    "PULSAR_OAUTH2_ISSUER_URL": "pulsar.authentication.oauth2.issuerUrl",
    "PULSAR_OAUTH2_AUDIENCE": "pulsar.authentication.oauth2.audience",
    "PULSAR_OAUTH2_SCOPE": "pulsar.authentication.oauth2.scope",
    "PULSAR_VALIDATE_HOSTNAME": "pulsar.tls.validateHostname",
    "PULSAR_ALLOW_INSECURE": "pulsar.tls.allowInsecure",
    "PULSAR_COMPRESSION": "pulsar.compression",
    "PULSAR_BATCHING": "pulsar.batching",
    "PULSAR_CLOUDEVENTS_SOURCE": "pulsar.cloudEvents.source",
    "GUARANTEE": "delivery.guarantee",
    "LANES": "delivery.lanes",
    "ORDERING": "delivery.ordering",
    "ON_ERROR": "delivery.onError",
    "BATCH_SIZE": "delivery.batchSize",
    "MAX_RETRIES": "delivery.maxRetries",
    "BACKOFF_INITIAL_MILLISECONDS": "delivery.backoff.initialMilliseconds",
    "BACKOFF_MAX_SECONDS": "delivery.backoff.maxSeconds",
    "POLL_MIN_MILLISECONDS": "polling.minMilliseconds",
    "POLL_MAX_MILLISECONDS": "polling.maxMilliseconds",
    "POLL_QUIET_MILLISECONDS": "polling.quietMilliseconds",
    "RETENTION_SENT_SECONDS": "retention.sentSeconds",
    "RETENTION_ERR_SECONDS": "retention.errSeconds",
    "STATUS_INTERVAL_SECONDS": "reporting.intervalSeconds",
}
"""Variable without its prefix OUTBOX_, and the path of the field in the spec."""

FROM_SECRETS: Final[Mapping[str, tuple[str, str, str | None]]] = {
    "DATABASE_TRUSTED_CERTIFICATES_FILE": (DATABASE_TLS_DIRECTORY, "database.tls.trustedCertificates.secretRef", None),
    "PULSAR_TOKEN_FILE": (PULSAR_DIRECTORY, "pulsar.authentication.token.secretRef", None),
    "PULSAR_CERTIFICATE_FILE": (PULSAR_DIRECTORY, "pulsar.authentication.tls.secretRef", "tls.crt"),
    "PULSAR_PRIVATE_KEY_FILE": (PULSAR_DIRECTORY, "pulsar.authentication.tls.secretRef", "tls.key"),
    "PULSAR_OAUTH2_CREDENTIALS_FILE": (PULSAR_DIRECTORY, "pulsar.authentication.oauth2.secretRef", None),
    "PULSAR_TRUSTED_CERTIFICATES_FILE": (PULSAR_DIRECTORY, "pulsar.tls.trustedCertificates.secretRef", None),
}
"""Variable, the directory of its file, the reference to the Secret that fills it, and the key in that Secret where the
reference names none."""


class SecretFile(NamedTuple):
    """A key of a Secret, and where it is mounted."""

    directory: str
    secret: str
    key: str

    @property
    def path(self) -> str:
        return f"{self.directory}/{self.secret}/{self.key}"


def secret_files(spec: Any) -> dict[str, SecretFile]:
    """By the variables that name them."""
    found = {name: (directory, _field(spec, path), key) for name, (directory, path, key) in FROM_SECRETS.items()}
    return {
        name: SecretFile(directory, secret["name"], key or secret["key"])
        for name, (directory, secret, key) in found.items()
        if secret is not None
    }


def environment(tenant: Manifest) -> dict[str, str]:
    """All variables of a tenant's projector, by name."""
    metadata, spec = tenant["metadata"], tenant["spec"]
    secret = spec["database"]["urlSecretRef"]
    values = {
        **{name: _field(spec, path) for name, path in FROM_SPEC.items()},
        **{name: file.path for name, file in secret_files(spec).items()},
        "DATABASE_URL_FILE": f"{DATABASE_URL_DIRECTORY}/{secret['key']}",
        "DATABASE_URL_SECRET": f"{secret['name']}/{secret['key']}",
        "RESOURCE_NAME": metadata["name"],
        "RESOURCE_NAMESPACE": metadata["namespace"],
        "HTTP_PORT": HTTP_PORT,
        "SHUTDOWN_GRACE_SECONDS": SHUTDOWN_GRACE_SECONDS,
    }
    return {f"OUTBOX_{name}": _text(value) for name, value in values.items() if value is not None}


def _field(spec: Any, path: str) -> Any:
    for step in path.split("."):
        spec = spec.get(step) if spec is not None else None
    return spec


def _text(value: Any) -> str:
    """As the projector's settings read it. `$(NAME)` would be expanded by the kubelet; `$$` stands for one `$`."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text.replace("$(", "$$(")
