"""Who we are for Pulsar, and whom we trust: files that may be missing, and may change."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pulsar
import pytest
from aiohttp import web

from bento_outbox import BusUnavailable, MisuseError
from bento_outbox.pulsar_bus import PulsarMessageBus
from bento_outbox.pulsar_client import Certificate, OAuth2, PulsarConnection, Token
from outbox_projector.pulsar_lane import PulsarLanePublisher
from tests.support.certificates import self_signed
from tests.support.envelopes import envelope
from tests.support.picky_broker import PickyBroker

TOPIC = "persistent://public/default/events"


@pytest.fixture
async def broker() -> AsyncIterator[PickyBroker]:
    async with PickyBroker().running() as broker:
        yield broker


async def knock(connection: PulsarConnection) -> BusUnavailable:
    """How one attempt to publish ends, that of a bus of its own."""
    bus = PulsarMessageBus(connection, topic=TOPIC, timeout_seconds=1)
    try:
        with pytest.raises(BusUnavailable) as raised:
            await bus.publish(envelope())
        return raised.value
    finally:
        await bus.close()


@contextlib.asynccontextmanager
async def knocking(connection: PulsarConnection) -> AsyncIterator[None]:
    """While the block runs, one and the same client connects again and again."""
    client, enough = connection.client(1), threading.Event()

    def connect() -> None:
        while not enough.is_set():
            with pytest.raises(pulsar.PulsarException):
                client.create_producer(TOPIC)

    attempts = asyncio.create_task(asyncio.to_thread(connect))
    try:
        yield
    finally:
        enough.set()
        await attempts
        await asyncio.to_thread(client.close)


async def test_a_token_that_is_replaced_is_read_at_the_next_connection_of_the_same_client(
    broker: PickyBroker, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first-token\n")

    async with knocking(PulsarConnection(service_url=broker.service_url, authentication=Token(file))):
        await broker.knocked(lambda knock: b"first-token" in knock[1])
        file.write_text("second-token\n")
        await broker.knocked(lambda knock: b"second-token" in knock[1])

    assert not any(b"-token\n" in command for _, command in broker.knocks)


async def test_a_token_that_goes_away_while_a_client_connects_ends_no_process(
    broker: PickyBroker, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("first-token")

    async with knocking(PulsarConnection(service_url=broker.service_url, authentication=Token(file))):
        await broker.knocked(lambda knock: b"first-token" in knock[1])
        file.unlink()
        await broker.knocked(lambda knock: b"first-token" not in knock[1])


async def test_certificates_that_are_replaced_are_read_at_the_next_connection_of_the_same_client(
    tmp_path: Path,
) -> None:
    """Both ours and those that we trust."""
    server, others = self_signed(tmp_path, "server"), [self_signed(tmp_path, name) for name in ("alice", "bob")]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*server)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(cadata="".join(certificate.read_text() for certificate, _ in others))
    ours, key, trusted = tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt"

    def become(certificate: Path, private_key: Path) -> None:
        ours.write_text(certificate.read_text())
        key.write_text(private_key.read_text())

    become(*others[0])
    trusted.write_text(server[0].read_text())
    async with PickyBroker(tls).running() as broker:
        client = PulsarConnection(
            service_url=broker.service_url,
            authentication=Certificate(ours, key),
            trusted_certificates_file=trusted,
        ).client(1)

        def connect() -> None:
            with pytest.raises(pulsar.PulsarException):
                client.create_producer(TOPIC)

        await asyncio.to_thread(connect)
        assert {name for name, _ in broker.knocks} == {"alice"}

        become(*others[1])
        broker.knocks.clear()
        await asyncio.to_thread(connect)
        assert {name for name, _ in broker.knocks} == {"bob"}

        trusted.write_text(others[0][0].read_text())
        broker.knocks.clear()
        await asyncio.to_thread(connect)
        assert broker.knocks == []

        trusted.write_text(server[0].read_text())
        await asyncio.to_thread(connect)
        assert {name for name, _ in broker.knocks} == {"bob"}
        await asyncio.to_thread(client.close)


@pytest.mark.parametrize(("options", "connects"), [({}, False), ({"validate_hostname": False}, True)])
async def test_a_certificate_of_another_name_is_not_trusted_unless_names_do_not_matter(
    tmp_path: Path, options: dict[str, bool], connects: bool
) -> None:
    server = self_signed(tmp_path, "server", address="127.0.0.2")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*server)
    async with PickyBroker(tls).running() as broker:
        error = await knock(
            PulsarConnection(service_url=broker.service_url, trusted_certificates_file=server[0], **options)
        )

    assert bool(broker.knocks) is connects
    assert "or its certificate is none that we trust" in str(error)


@pytest.fixture
async def issuer_url() -> AsyncIterator[str]:
    """An issuer that puts what it was asked with into the token."""

    async def configuration(request: web.Request) -> web.Response:
        return web.json_response({"token_endpoint": str(request.url.with_path("/token"))})

    async def token(request: web.Request) -> web.Response:
        form = await request.post()
        asked = [str(form.get(name)) for name in ("client_id", "client_secret", "audience", "scope")]
        return web.json_response({"access_token": " ".join(asked), "expires_in": 3600})

    issuer = web.Application()
    issuer.add_routes([web.get("/.well-known/openid-configuration", configuration), web.post("/token", token)])
    runner = web.AppRunner(issuer)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_oauth2_credentials_that_were_replaced_are_read_when_the_broker_has_refused_us(
    broker: PickyBroker, issuer_url: str, tmp_path: Path
) -> None:
    """The client itself reads them only once."""
    file = tmp_path / "credentials.json"
    authentication = OAuth2(credentials_file=file, issuer_url=issuer_url, audience="urn:broker", scope="publish")
    connection = PulsarConnection(service_url=broker.service_url, authentication=authentication)
    bus = PulsarMessageBus(connection, topic=TOPIC, timeout_seconds=1)
    for secret in ("first", "second"):
        file.write_text(json.dumps({"client_id": "me", "client_secret": secret}))
        broker.knocks.clear()

        with pytest.raises(BusUnavailable, match="or it does not take our credentials"):
            await bus.check("acme")

        # The client of the first round may still be closing.
        commands = {command for _, command in broker.knocks}
        assert any(f"me {secret} urn:broker publish".encode() in command for command in commands)
    await bus.close()


@pytest.mark.parametrize(
    "content", ["", "no json", "[]", '{"client_id": "me"}', '{"client_id": 1, "client_secret": 2}']
)
async def test_what_holds_no_oauth2_credentials_is_told_without_its_content(tmp_path: Path, content: str) -> None:
    file = tmp_path / "credentials.json"
    file.write_text(content)

    error = await knock(
        PulsarConnection(
            service_url="pulsar://127.0.0.1:1",
            authentication=OAuth2(credentials_file=file, issuer_url="http://127.0.0.1:1"),
        )
    )

    assert str(error) == f"{file} holds no OAuth2 credentials: write a JSON object with client_id and client_secret"
    assert error.reason == "BrokerAuthenticationFailed"


@pytest.mark.parametrize("missing", ["token", "tls.crt", "tls.key", "credentials.json", "ca.crt"])
async def test_a_file_that_is_missing_is_told_and_used_as_soon_as_it_is_there(tmp_path: Path, missing: str) -> None:
    secret = tmp_path / "acme-pulsar"
    secret.mkdir()
    for name in ("token", "tls.crt", "tls.key", "ca.crt"):
        (secret / name).touch()
    (secret / "credentials.json").write_text('{"client_id": "me", "client_secret": "x"}')
    authentication = {
        "token": Token(secret / "token"),
        "credentials.json": OAuth2(credentials_file=secret / "credentials.json", issuer_url="http://127.0.0.1:1"),
    }.get(missing, Certificate(secret / "tls.crt", secret / "tls.key"))
    connection = PulsarConnection(
        service_url="pulsar+ssl://127.0.0.1:1",
        authentication=authentication,
        trusted_certificates_file=secret / "ca.crt",
    )
    content = (secret / missing).read_bytes()
    (secret / missing).unlink()
    bus = PulsarMessageBus(connection, topic=TOPIC, timeout_seconds=1)
    lane = PulsarLanePublisher(connection, producer_name="lane", configured_topic=TOPIC, timeout_seconds=1)

    for attempt in (bus.publish(envelope()), bus.check("acme"), lane.open(TOPIC)):
        with pytest.raises(BusUnavailable) as raised:
            await attempt
        assert raised.value.reason == "SecretNotFound"
        assert str(raised.value) == (
            f"{secret / missing} cannot be read (No such file or directory); in a cluster it is the key {missing!r} of "
            f"the Secret 'acme-pulsar': create it"
        )

    (secret / missing).write_bytes(content)
    for attempt in (bus.check("acme"), lane.open(TOPIC)):
        with pytest.raises(BusUnavailable) as raised:
            await attempt
        assert raised.value.reason in ("BrokerUnreachable", "BrokerAuthenticationFailed")
    await bus.close()
    await lane.close()


async def test_a_broker_that_refuses_a_token_looks_to_the_client_as_if_it_were_away_and_we_say_so(
    broker: PickyBroker, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("revoked")

    error = await knock(PulsarConnection(service_url=broker.service_url, authentication=Token(file)))

    assert error.reason == "BrokerUnreachable"
    assert "cannot be reached, or it does not take our credentials (" in str(error)
    assert "revoked" not in str(error)


def test_certificates_need_tls(tmp_path: Path) -> None:
    for options in (
        {"authentication": Certificate(tmp_path / "tls.crt", tmp_path / "tls.key")},
        {"trusted_certificates_file": tmp_path / "ca.crt"},
    ):
        with pytest.raises(MisuseError, match=r"must be a pulsar\+ssl:// URL"):
            PulsarConnection(service_url="pulsar://broker:6650", **options)  # type: ignore[arg-type]
