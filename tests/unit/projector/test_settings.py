"""The environment of the projector's process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from bento_outbox import MisuseError
from bento_outbox.pulsar_bus import DEFAULT_TOPIC
from bento_outbox.pulsar_client import Certificate, OAuth2, Token
from outbox_projector.settings import load_settings

SECRET = "s3cr3t-pa55word"
ENOUGH = {
    "OUTBOX_TENANT_ID": "acme",
    "OUTBOX_DATABASE_URL": f"postgresql://outbox:{SECRET}@db/shop",
    "OUTBOX_PULSAR_SERVICE_URL": "pulsar://broker:6650",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with the least that is needed."""
    for name in [name for name in os.environ if name.startswith("OUTBOX_")]:
        monkeypatch.delenv(name)
    for name, value in ENOUGH.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.usefixtures("environment")
def test_the_least_that_is_needed() -> None:
    settings = load_settings()

    assert (settings.tenant_id, settings.pulsar_service_url) == ("acme", "pulsar://broker:6650")
    assert settings.database_url is not None
    assert settings.database_url.text == ENOUGH["OUTBOX_DATABASE_URL"]


@pytest.mark.usefixtures("environment")
def test_what_is_not_set_has_the_documented_default() -> None:
    settings = load_settings()

    assert (settings.database_schema, settings.database_table) == ("public", "outbox")
    assert (settings.batch_size, settings.max_retries, settings.pulsar_topic) == (1000, 5, DEFAULT_TOPIC)
    assert (settings.poll_min_milliseconds, settings.poll_max_milliseconds) == (20, 1000)
    assert (settings.status_interval_seconds, settings.http_port, settings.shutdown_grace_seconds) == (180, 8080, 20)
    assert (settings.retention_sent_seconds, settings.retention_err_seconds) == (7 * 24 * 3600, None)
    assert settings.resource_name is None


def test_the_operator_sets_these(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("OUTBOX_DATABASE_URL")
    given = {
        "DATABASE_URL_FILE": "/var/run/outbox/database/url",
        "DATABASE_URL_SECRET": "shop-database/url",
        "DATABASE_TRUSTED_CERTIFICATES_FILE": "/var/run/outbox/database-tls/shop-ca/ca.crt",
        "DATABASE_SCHEMA": "shop",
        "DATABASE_TABLE": "events",
        "PULSAR_TOPIC": "persistent://shop/{tenant}/{type}",
        "PULSAR_COMPRESSION": "ZSTD",
        "PULSAR_BATCHING": "KeyBased",
        "PULSAR_CLOUDEVENTS_SOURCE": "/shops/{tenant}",
        "BATCH_SIZE": "50",
        "MAX_RETRIES": "3",
        "BACKOFF_INITIAL_MILLISECONDS": "100",
        "BACKOFF_MAX_SECONDS": "30",
        "POLL_MIN_MILLISECONDS": "5",
        "POLL_MAX_MILLISECONDS": "500",
        "POLL_QUIET_MILLISECONDS": "5000",
        "STATUS_INTERVAL_SECONDS": "10",
        "RESOURCE_NAME": "acme",
        "RESOURCE_NAMESPACE": "shop",
        "HTTP_PORT": "9090",
        "SHUTDOWN_GRACE_SECONDS": "15",
        "LOG_LEVEL": "DEBUG",
    }
    for name, value in given.items():
        environment.setenv(f"OUTBOX_{name}", value)

    settings = load_settings()

    assert settings.database_url_file == Path("/var/run/outbox/database/url")
    assert {name: str(getattr(settings, name.lower())) for name in given} == given


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("TENANT_ID", None, "OUTBOX_TENANT_ID is not set"),
        ("TENANT_ID", "", "OUTBOX_TENANT_ID: expected str of length >= 1 (it is '')"),
        ("PULSAR_SERVICE_URL", None, "OUTBOX_PULSAR_SERVICE_URL is not set"),
        (
            "PULSAR_SERVICE_URL",
            "http://broker:8080",
            "OUTBOX_PULSAR_SERVICE_URL: 'http://broker:8080' is no Pulsar URL: "
            "its form is pulsar://host:6650 or pulsar+ssl://host:6651",
        ),
        (
            "PULSAR_TOPIC",
            "persistent://a/b/{customer}",
            "OUTBOX_PULSAR_TOPIC: topic 'persistent://a/b/{customer}' has the unknown placeholder {customer}: "
            "use {tenant} or {type}",
        ),
        (
            "PULSAR_CLOUDEVENTS_SOURCE",
            "/shops/{customer}",
            "OUTBOX_PULSAR_CLOUDEVENTS_SOURCE: CloudEvents source '/shops/{customer}' is no URI reference: "
            "write one such as /tenants/{tenant}, where {tenant} stands for the tenant's id",
        ),
        ("DATABASE_TABLE", "", "OUTBOX_DATABASE_TABLE: expected str of length >= 1 (it is '')"),
        ("BATCH_SIZE", "0", "OUTBOX_BATCH_SIZE: expected int >= 1 (it is '0')"),
        ("BATCH_SIZE", "10001", "OUTBOX_BATCH_SIZE: expected int <= 10000 (it is '10001')"),
        ("BATCH_SIZE", "many", "OUTBOX_BATCH_SIZE: expected int (it is 'many')"),
        ("RETENTION_ERR_SECONDS", "never", "OUTBOX_RETENTION_ERR_SECONDS: expected int (it is 'never')"),
        ("PULSAR_ALLOW_INSECURE", "perhaps", "OUTBOX_PULSAR_ALLOW_INSECURE: expected bool (it is 'perhaps')"),
        ("PULSAR_BATCHING", "By key", "OUTBOX_PULSAR_BATCHING: expected one of Default, KeyBased (it is 'By key')"),
        ("MAX_RETRIES", "0", "OUTBOX_MAX_RETRIES: expected int >= 1 (it is '0')"),
        ("HTTP_PORT", "65536", "OUTBOX_HTTP_PORT: expected int <= 65535 (it is '65536')"),
        ("LOG_LEVEL", "loud", "OUTBOX_LOG_LEVEL: expected one of DEBUG, INFO, WARNING, ERROR (it is 'loud')"),
        (
            "POLL_MIN_MILLISECONDS",
            "1001",
            "OUTBOX_POLL_MIN_MILLISECONDS (1001) is above OUTBOX_POLL_MAX_MILLISECONDS (1000)",
        ),
        (
            "BACKOFF_INITIAL_MILLISECONDS",
            "60001",
            "OUTBOX_BACKOFF_INITIAL_MILLISECONDS (60001) is above OUTBOX_BACKOFF_MAX_SECONDS (60 s)",
        ),
        (
            "DATABASE_URL",
            "mysql://db/shop",
            "OUTBOX_DATABASE_URL: the database URL begins with mysql://, but only Postgres is supported: "
            "postgresql://user:password@host:5432/database",
        ),
        ("DATABASE_URL", None, "set one of OUTBOX_DATABASE_URL and OUTBOX_DATABASE_URL_FILE"),
        ("DATABASE_URL_FILE", "/var/run/url", "set one of OUTBOX_DATABASE_URL and OUTBOX_DATABASE_URL_FILE"),
        (
            "PULSAR_TIMEOUT_SECONDS",
            "20",
            "OUTBOX_PULSAR_TIMEOUT_SECONDS (20) is not below OUTBOX_SHUTDOWN_GRACE_SECONDS (20): "
            "a stop would cut off a batch that the broker has not answered yet",
        ),
    ],
)
def test_a_wrong_variable_is_named_in_one_sentence(
    environment: pytest.MonkeyPatch, variable: str, value: str | None, sentence: str
) -> None:
    if value is None:
        environment.delenv(f"OUTBOX_{variable}")
    else:
        environment.setenv(f"OUTBOX_{variable}", value)

    with pytest.raises(MisuseError) as raised:
        load_settings()

    assert str(raised.value) == sentence


def test_levels_of_the_log_are_taken_as_people_write_them(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OUTBOX_LOG_LEVEL", "warning")

    assert load_settings().log_level == "WARNING"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"TOKEN_FILE": "/secret/token"}, Token(Path("/secret/token"))),
        (
            {"CERTIFICATE_FILE": "/secret/tls.crt", "PRIVATE_KEY_FILE": "/secret/tls.key"},
            Certificate(Path("/secret/tls.crt"), Path("/secret/tls.key")),
        ),
        (
            {
                "OAUTH2_CREDENTIALS_FILE": "/secret/key.json",
                "OAUTH2_ISSUER_URL": "https://issuer",
                "OAUTH2_AUDIENCE": "urn:broker",
                "OAUTH2_SCOPE": "publish",
            },
            OAuth2(
                credentials_file=Path("/secret/key.json"),
                issuer_url="https://issuer",
                audience="urn:broker",
                scope="publish",
            ),
        ),
    ],
)
def test_who_we_are_for_pulsar_is_one_of_three(
    environment: pytest.MonkeyPatch, given: dict[str, str], expected: object
) -> None:
    environment.setenv("OUTBOX_PULSAR_SERVICE_URL", "pulsar+ssl://broker:6651")
    environment.setenv("OUTBOX_PULSAR_TRUSTED_CERTIFICATES_FILE", "/secret/ca.crt")
    for name, value in given.items():
        environment.setenv(f"OUTBOX_PULSAR_{name}", value)

    connection = load_settings().pulsar_connection()

    assert connection.authentication == expected
    assert connection.trusted_certificates_file == Path("/secret/ca.crt")
    assert (connection.validate_hostname, connection.allow_insecure) == (True, False)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"TOKEN_FILE": "t", "CERTIFICATE_FILE": "c", "PRIVATE_KEY_FILE": "k"},
            "set only one of OUTBOX_PULSAR_TOKEN_FILE, OUTBOX_PULSAR_CERTIFICATE_FILE and "
            "OUTBOX_PULSAR_OAUTH2_CREDENTIALS_FILE",
        ),
        (
            {"PRIVATE_KEY_FILE": "k"},
            "set both or none of OUTBOX_PULSAR_CERTIFICATE_FILE and OUTBOX_PULSAR_PRIVATE_KEY_FILE",
        ),
        (
            {"OAUTH2_CREDENTIALS_FILE": "c"},
            "set both or none of OUTBOX_PULSAR_OAUTH2_CREDENTIALS_FILE and OUTBOX_PULSAR_OAUTH2_ISSUER_URL",
        ),
        (
            {"TRUSTED_CERTIFICATES_FILE": "c"},
            "certificates need TLS: 'pulsar://broker:6650' must be a pulsar+ssl:// URL",
        ),
    ],
)
def test_credentials_that_do_not_fit_together_are_refused(
    environment: pytest.MonkeyPatch, given: dict[str, str], sentence: str
) -> None:
    for name, value in given.items():
        environment.setenv(f"OUTBOX_PULSAR_{name}", value)

    with pytest.raises(MisuseError) as raised:
        load_settings()

    assert str(raised.value) == sentence


def test_several_wrong_variables_are_all_named(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("OUTBOX_TENANT_ID")
    environment.setenv("OUTBOX_BATCH_SIZE", "0")

    with pytest.raises(MisuseError) as raised:
        load_settings()

    assert [line.split()[0] for line in str(raised.value).splitlines()] == ["OUTBOX_TENANT_ID", "OUTBOX_BATCH_SIZE:"]


def test_what_is_wrong_is_said_without_the_database_url(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OUTBOX_DATABASE_URL_FILE", "/var/run/url")
    environment.setenv("OUTBOX_BATCH_SIZE", "0")

    with pytest.raises(MisuseError) as raised:
        load_settings()

    assert SECRET not in str(raised.value)


@pytest.mark.usefixtures("environment")
def test_the_effective_settings_can_be_logged() -> None:
    settings = load_settings()

    assert SECRET not in str(settings)
    assert SECRET not in json.dumps(settings.shown())
    assert settings.shown().items() >= {"tenant_id": "acme", "batch_size": 1000, "pulsar_topic": DEFAULT_TOPIC}.items()
    assert "resource_name" not in settings.shown()


def test_what_looks_like_another_type_stays_text(environment: pytest.MonkeyPatch) -> None:
    """Kubernetes takes them as names."""
    for name, value in {"TENANT_ID": "1", "RESOURCE_NAME": "null", "RESOURCE_NAMESPACE": "true"}.items():
        environment.setenv(f"OUTBOX_{name}", value)

    settings = load_settings()

    assert (settings.tenant_id, settings.resource_name, settings.resource_namespace) == ("1", "null", "true")
