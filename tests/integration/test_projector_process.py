"""`outbox-projector run` as a process, as a pod runs it: real Postgres, real Pulsar."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pulsar
import pytest
from aiohttp.test_utils import unused_port
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from bento_outbox import UnitOfWork
from bento_outbox import register_event_from_aggregate as register
from bento_outbox.schema import apply_schema
from tests.conftest import unique
from tests.support.certificates import self_signed
from tests.support.notes import Noted
from tests.support.programs import Running, run, started
from tests.support.pulsar_topics import Namespaces, Topics
from tests.support.rows import Rows
from tests.support.tls_front import TlsFront, relayed_to
from tests.support.waiting import eventually

Sessions = async_sessionmaker[AsyncSession]
NOBODY_LISTENS = "pulsar://127.0.0.1:1"
WRONG_PASSWORD = "s3cr3t-pa55word"
GRACE_OF_A_POD = 30.0
"""terminationGracePeriodSeconds: after that many seconds a pod is killed."""


@pytest.fixture(params=["AtLeastOnce", "ExactlyOnce"])
def variables(
    request: pytest.FixtureRequest, database_url: str, pulsar_url: str, topic: str, tenant: str
) -> dict[str, str]:
    """The environment of a projector for which all is well."""
    return {
        "OUTBOX_GUARANTEE": request.param,
        "OUTBOX_TENANT_ID": tenant,
        "OUTBOX_DATABASE_URL": database_url,
        "OUTBOX_PULSAR_SERVICE_URL": pulsar_url,
        "OUTBOX_PULSAR_TOPIC": topic,
        "OUTBOX_PULSAR_TIMEOUT_SECONDS": "2",
        "OUTBOX_HTTP_PORT": str(unused_port()),
    }


def _with_url_in(file: Path, variables: dict[str, str]) -> dict[str, str]:
    """The same with the URL in a file, which is not there yet."""
    others = {name: value for name, value in variables.items() if name != "OUTBOX_DATABASE_URL"}
    return others | {"OUTBOX_DATABASE_URL_FILE": str(file), "OUTBOX_DATABASE_URL_SECRET": "shop/dsn"}


class Http:
    """The endpoints of a projector."""

    def __init__(self, variables: dict[str, str], http: aiohttp.ClientSession) -> None:
        self._root = f"http://127.0.0.1:{variables['OUTBOX_HTTP_PORT']}"
        self._http = http

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text; (0, "") while nobody listens."""
        try:
            async with self._http.get(f"{self._root}/{path}") as response:
                return response.status, await response.text()
        except aiohttp.ClientConnectorError:
            return 0, ""

    async def ready_saying(self, words: str) -> str:
        """What /readyz tells as soon as it is 200 and tells this."""

        async def look() -> str | None:
            status, told = await self.get("readyz")
            return told if status == 200 and words in told else None

        told: str = await eventually(look)
        return told


@pytest.fixture
async def http(variables: dict[str, str]) -> AsyncIterator[Http]:
    async with aiohttp.ClientSession() as session:
        yield Http(variables, session)


def _sent(rows: Rows, count: int) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return await rows.count("SENT") == count

    return look


async def _stopped(projector: Running) -> None:
    finished = await projector.stopped_by(signal.SIGTERM, within=GRACE_OF_A_POD)

    assert (finished.code, finished.errors) == (0, "")
    assert projector.lines[-1]["event"] == "stopped"


async def test_rows_arrive_and_sigterm_ends_it(
    variables: dict[str, str], rows: Rows, topics: Topics, topic: str, http: Http
) -> None:
    inserted = await rows.insert_many(300)
    async with started("outbox-projector", "run", **variables) as projector:
        await eventually(_sent(rows, 300))
        inserted.append(await rows.insert(type="orders.Paid", headers={"traceparent": "00-1-2-01"}))
        await eventually(_sent(rows, 301))
        told = await http.ready_saying("BrokerReachable=True Connected")
        _, metrics = await http.get("metrics")
        health = await http.get("healthz")
        await _stopped(projector)

    messages = await topics.exactly(301, topic)
    assert [message.event_id for message in messages] == [str(event_id) for event_id in inserted]
    assert messages[-1].properties["type"] == "orders.Paid"
    assert messages[-1].properties["traceparent"] == "00-1-2-01"
    assert messages[-1].properties["created_at"] == (await rows.all())[-1].created_at.isoformat()
    assert "DatabaseReachable=True Connected" in told
    assert f'outbox_events_published_total{{tenant="{rows.tenant}"}} 301.0' in metrics
    assert health == (200, "ok\n")
    assert projector.lines[-1]["published"] == 301


async def test_a_commit_wakes_it_from_a_rest_longer_than_this_test(
    variables: dict[str, str], sessions: Sessions, rows: Rows, http: Http
) -> None:
    an_hour = {"OUTBOX_POLL_MIN_MILLISECONDS": "3600000", "OUTBOX_POLL_MAX_MILLISECONDS": "3600000"}
    async with started("outbox-projector", "run", **variables | an_hour) as projector:
        await projector.logged("listening")
        await http.ready_saying("DatabaseReachable=True Connected")
        async with UnitOfWork(sessions, tenant_id=rows.tenant) as work:
            register(Noted(1))
            await work.commit()
        await eventually(_sent(rows, 1))
        _, metrics = await http.get("metrics")
        await _stopped(projector)

    assert f'outbox_listening{{tenant="{rows.tenant}"}} 1.0' in metrics


async def test_how_messages_look_and_are_batched_is_set(
    variables: dict[str, str], rows: Rows, topics: Topics, topic: str
) -> None:
    settings = {"BATCHING": "KeyBased", "COMPRESSION": "ZSTD", "CLOUDEVENTS_SOURCE": "/shops/{tenant}"}
    inserted = await rows.insert_many(100, aggregates=5)
    with topics.key_shared(topic, consumers=2) as received:
        chosen = {f"OUTBOX_PULSAR_{name}": value for name, value in settings.items()}
        async with started("outbox-projector", "run", **variables, **chosen) as projector:
            arrived = [await asyncio.to_thread(received.get, timeout=20) for _ in inserted]
            await _stopped(projector)

    assert {message.properties["ce_id"] for _, message in arrived} == set(map(str, inserted))
    assert {message.properties["ce_source"] for _, message in arrived} == {f"/shops/{rows.tenant}"}
    assert len({(consumer, message.key) for consumer, message in arrived}) == 5


async def test_old_rows_are_deleted_and_counted(variables: dict[str, str], rows: Rows, http: Http, tenant: str) -> None:
    for status in ("SENT", "ERR"):
        await rows.insert(status=status, sql={"sent_at": "now() - interval '8 days'", "available_at": "now()"})
    failed_long_ago = await rows.insert(status="ERR", sql={"available_at": "now() - interval '2 hours'"})

    async def only_the_young_one() -> bool:
        return await rows.statuses() == ["ERR"]

    async with started("outbox-projector", "run", **variables, OUTBOX_RETENTION_ERR_SECONDS="3600") as projector:
        await eventually(only_the_young_one)
        _, metrics = await http.get("metrics")
        await _stopped(projector)

    assert failed_long_ago not in {row.id for row in await rows.all()}
    assert f'outbox_events_deleted_total{{tenant="{tenant}"}} 2.0' in metrics


async def test_a_stop_under_load_leaves_nothing_half_done(
    variables: dict[str, str], rows: Rows, topics: Topics, topic: str
) -> None:
    await rows.insert_many(10_000, aggregates=100)
    variables |= {"OUTBOX_BATCH_SIZE": "20"}
    async with started("outbox-projector", "run", **variables) as projector:
        await eventually(lambda: rows.count("SENT"))
        await _stopped(projector)

    sent = await rows.count("SENT")
    assert 0 < sent < 10_000
    assert await rows.count("NEW") == 10_000 - sent
    assert len(await topics.exactly(sent, topic)) == sent


async def test_a_killed_projector_loses_nothing(
    variables: dict[str, str], rows: Rows, topics: Topics, topic: str
) -> None:
    inserted = await rows.insert_many(2_000)
    async with started("outbox-projector", "run", **variables, OUTBOX_BATCH_SIZE="20") as killed:
        await eventually(lambda: rows.count("SENT"))
        killed.process.kill()
        await killed.finished()
    async with started("outbox-projector", "run", **variables) as projector:
        await eventually(_sent(rows, 2_000))
        await _stopped(projector)

    assert await asyncio.to_thread(topics.distinct, topic) == {str(event_id) for event_id in inserted}


async def test_what_can_never_be_published_becomes_err_and_the_others_go_on(
    variables: dict[str, str], rows: Rows, topics: Topics, topic: str
) -> None:
    await rows.insert()
    await rows.insert(payload="x" * 6_000_000)
    await rows.insert(headers=["no", "object"])
    await rows.insert(topic="persistent://public/default/ ")
    await rows.insert()
    async with started("outbox-projector", "run", **variables) as projector:
        await eventually(_sent(rows, 2))
        await _stopped(projector)

    assert await rows.statuses() == ["SENT", "ERR", "ERR", "ERR", "SENT"]
    assert all(row.last_error for row in await rows.all() if row.status == "ERR")
    assert len(await topics.exactly(2, topic)) == 2


async def test_a_secret_that_is_missing_is_told_and_used_as_soon_as_it_is_there(
    variables: dict[str, str], rows: Rows, http: Http, tmp_path: Path, database_url: str
) -> None:
    await rows.insert()
    file = tmp_path / "url"
    async with started("outbox-projector", "run", **_with_url_in(file, variables)) as projector:
        told = await http.ready_saying("DatabaseReachable=False SecretNotFound")
        assert "Secret 'shop' with key 'dsn' does not exist: create it with the database URL" in told
        assert "BrokerReachable=Unknown NotTried" in told
        assert (await http.get("healthz"))[0] == 200
        line = await projector.logged("outage", reason="SecretNotFound")
        assert line["retry_in_seconds"] > 0

        file.write_text(f"{database_url}\n")
        await eventually(_sent(rows, 1))
        await http.ready_saying("DatabaseReachable=True Connected")
        await _stopped(projector)


async def test_authorities_for_the_database_that_are_missing_are_told_and_used_as_soon_as_they_are_there(
    variables: dict[str, str], rows: Rows, http: Http, tmp_path: Path, database_url: str
) -> None:
    await rows.insert()
    file = tmp_path / "db-ca" / "ca.crt"
    file.parent.mkdir()
    url = make_url(database_url)
    assert url.host is not None
    front = TlsFront(relayed_to(url.host, url.port or 5432), self_signed(tmp_path, "server"))
    async with front.running():
        secure = url.set(host="127.0.0.1", port=front.port, query={"sslmode": "verify-full"})
        variables |= {
            "OUTBOX_DATABASE_URL": secure.render_as_string(hide_password=False),
            "OUTBOX_DATABASE_TRUSTED_CERTIFICATES_FILE": str(file),
        }
        async with started("outbox-projector", "run", **variables) as projector:
            told = await http.ready_saying("DatabaseReachable=False SecretNotFound")
            assert "it is the key 'ca.crt' of the Secret 'db-ca': create it" in told

            file.write_text(self_signed(tmp_path, "stranger")[0].read_text())
            told = await http.ready_saying("DatabaseReachable=False DatabaseUnreachable")
            assert "the certificate of the database is not trusted" in told

            file.write_text(front.certificate[0].read_text())
            await eventually(_sent(rows, 1))
            await http.ready_saying("DatabaseReachable=True Connected")
            await _stopped(projector)


async def test_a_wrong_password_is_told_but_not_shown_and_a_rotated_secret_is_taken(
    variables: dict[str, str], rows: Rows, http: Http, tmp_path: Path, database_url: str
) -> None:
    await rows.insert()
    file = tmp_path / "url"
    wrong = make_url(database_url).set(password=WRONG_PASSWORD)
    file.write_text(wrong.render_as_string(hide_password=False))
    async with started("outbox-projector", "run", **_with_url_in(file, variables)) as projector:
        told = await http.ready_saying("DatabaseReachable=False DatabaseAuthenticationFailed")
        assert 'password authentication failed for user "outbox"' in told

        file.write_text(database_url)
        await eventually(_sent(rows, 1))
        finished = await projector.stopped_by(signal.SIGTERM)

    assert finished.code == 0
    assert WRONG_PASSWORD not in told + finished.output + finished.errors


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"database": "no_such_database"}, "DatabaseNotFound"),
        ({"port": 1}, "DatabaseUnreachable"),
    ],
)
async def test_a_database_that_is_not_there_is_told_with_its_reason(
    variables: dict[str, str], http: Http, change: dict[str, object], reason: str
) -> None:
    url = make_url(variables["OUTBOX_DATABASE_URL"]).set(**change)  # type: ignore[arg-type]
    variables |= {"OUTBOX_DATABASE_URL": url.render_as_string(hide_password=False)}
    async with started("outbox-projector", "run", **variables) as projector:
        await http.ready_saying(f"DatabaseReachable=False {reason}")
        await _stopped(projector)


async def test_a_table_that_is_missing_is_told_and_used_as_soon_as_it_is_there(
    variables: dict[str, str], http: Http, empty_database_url: str, empty_engine: AsyncEngine, tenant: str
) -> None:
    variables |= {"OUTBOX_DATABASE_URL": f"{empty_database_url}?sslmode=prefer"}
    async with started("outbox-projector", "run", **variables) as projector:
        told = await http.ready_saying("DatabaseReachable=False OutboxTableMissing")
        assert "run `bento-outbox schema apply`" in told

        await apply_schema(empty_engine)
        rows = Rows(async_sessionmaker(empty_engine), tenant)
        await rows.insert()
        await eventually(_sent(rows, 1))
        await _stopped(projector)


async def test_a_role_that_may_only_read_is_told(variables: dict[str, str], http: Http, engine: AsyncEngine) -> None:
    role = unique("reader")
    async with engine.begin() as connection:
        await connection.execute(text(f"CREATE ROLE \"{role}\" LOGIN PASSWORD 'reader'"))
        await connection.execute(text(f'GRANT SELECT ON outbox TO "{role}"'))
    url = make_url(variables["OUTBOX_DATABASE_URL"]).set(username=role, password="reader")
    variables |= {"OUTBOX_DATABASE_URL": url.render_as_string(hide_password=False)}
    async with started("outbox-projector", "run", **variables) as projector:
        await http.ready_saying("DatabaseReachable=False DatabasePermissionDenied")
        await _stopped(projector)
    async with engine.begin() as connection:
        await connection.execute(text(f'DROP OWNED BY "{role}"'))
        await connection.execute(text(f'DROP ROLE "{role}"'))


async def test_a_database_that_does_not_answer_does_not_hold_up_the_stop(
    variables: dict[str, str], empty_database_url: str, empty_engine: AsyncEngine
) -> None:
    """Someone has locked the whole table."""
    await apply_schema(empty_engine)
    variables |= {"OUTBOX_DATABASE_URL": empty_database_url, "OUTBOX_SHUTDOWN_GRACE_SECONDS": "3"}
    async with empty_engine.connect() as locking:
        await locking.execute(text("LOCK TABLE outbox"))
        async with started("outbox-projector", "run", **variables) as projector:
            await eventually(lambda: _somebody_waits(empty_engine))
            await _stopped(projector)


async def _somebody_waits(engine: AsyncEngine) -> bool:
    async with engine.connect() as connection:
        waiting = text(
            "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
            "WHERE NOT granted AND datname = current_database()"
        )
        return bool((await connection.execute(waiting)).scalar_one())


async def test_a_broker_that_is_not_there_is_told_and_nobodys_retry(
    variables: dict[str, str], rows: Rows, http: Http
) -> None:
    await rows.insert()
    variables |= {"OUTBOX_PULSAR_SERVICE_URL": NOBODY_LISTENS}
    async with started("outbox-projector", "run", **variables) as projector:
        told = await http.ready_saying("BrokerReachable=False BrokerUnreachable")
        await projector.logged("outage", reason="BrokerUnreachable")
        await _stopped(projector)

    assert f"Pulsar at {NOBODY_LISTENS} cannot be reached" in told
    assert [(row.status, row.retry_cnt) for row in await rows.all()] == [("NEW", 0)]


async def test_a_secret_for_the_broker_that_is_missing_is_told_and_used_as_soon_as_it_is_there(
    variables: dict[str, str], rows: Rows, http: Http, tmp_path: Path
) -> None:
    file = tmp_path / "acme-pulsar" / "token"
    file.parent.mkdir()
    await rows.insert()
    async with started("outbox-projector", "run", **variables, OUTBOX_PULSAR_TOKEN_FILE=str(file)):
        told = await http.ready_saying("BrokerReachable=False SecretNotFound")
        assert "it is the key 'token' of the Secret 'acme-pulsar': create it" in told

        file.write_text("a token that this broker does not look at")

        await eventually(_sent(rows, 1))
        await http.ready_saying("BrokerReachable=True Connected")


async def test_an_idle_projector_finds_the_broker_missing_too(variables: dict[str, str], http: Http) -> None:
    variables |= {"OUTBOX_PULSAR_SERVICE_URL": NOBODY_LISTENS}
    async with started("outbox-projector", "run", **variables) as projector:
        await http.ready_saying("BrokerReachable=False BrokerUnreachable")
        await _stopped(projector)


async def test_rows_that_all_wait_for_later_do_not_keep_it_from_being_ready(
    variables: dict[str, str], rows: Rows, http: Http
) -> None:
    await rows.insert(sql={"available_at": "now() + interval '1 hour'"})
    async with started("outbox-projector", "run", **variables) as projector:
        await http.ready_saying("BrokerReachable=True Connected")
        await _stopped(projector)


async def test_a_namespace_that_does_not_exist_is_told_and_used_as_soon_as_it_does(
    variables: dict[str, str], rows: Rows, http: Http, namespaces: Namespaces, topics: Topics, own_namespace: str
) -> None:
    await namespaces.delete(own_namespace)
    await rows.insert()
    topic = f"persistent://{own_namespace}/events"
    async with started("outbox-projector", "run", **variables | {"OUTBOX_PULSAR_TOPIC": topic}) as projector:
        told = await http.ready_saying("BrokerReachable=False PulsarNamespaceNotFound")
        assert f"no namespace {own_namespace}: create it" in told
        assert [(row.status, row.retry_cnt) for row in await rows.all()] == [("NEW", 0)]

        await namespaces.create(own_namespace)
        await eventually(_sent(rows, 1))
        await http.ready_saying("BrokerReachable=True Connected")
        await _stopped(projector)

    assert len(await topics.exactly(1, topic)) == 1


async def test_the_settings_in_force_are_logged_without_the_password(variables: dict[str, str]) -> None:
    url = make_url(variables["OUTBOX_DATABASE_URL"]).set(password=WRONG_PASSWORD)
    variables |= {"OUTBOX_DATABASE_URL": url.render_as_string(hide_password=False)}
    async with started("outbox-projector", "run", **variables) as projector:
        line = await projector.logged("started")
        finished = await projector.stopped_by(signal.SIGINT)

    assert finished.code == 0
    assert (line["tenant_id"], line["batch_size"], line["database_url"]) == (
        variables["OUTBOX_TENANT_ID"],
        1000,
        "**********",
    )
    assert WRONG_PASSWORD not in finished.output + finished.errors


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"OUTBOX_BATCH_SIZE": "none"}, "OUTBOX_BATCH_SIZE: "),
        ({"OUTBOX_RESOURCE_NAME": "acme"}, "OUTBOX_RESOURCE_NAME is set, but this is no pod"),
    ],
)
async def test_wrong_settings_end_it_with_one_sentence(
    variables: dict[str, str], change: dict[str, str], sentence: str
) -> None:
    finished = await run("outbox-projector", "run", **variables | change)

    assert finished.code == 1
    assert finished.errors.startswith(f"Error: {sentence}")
    assert finished.errors.count("\n") == 1


async def test_a_port_that_is_taken_ends_it_with_one_sentence(variables: dict[str, str]) -> None:
    async with started("outbox-projector", "run", **variables) as projector:
        await projector.logged("started")
        finished = await run("outbox-projector", "run", **variables)

    assert finished.code == 1
    assert finished.errors.startswith(f"Error: port {variables['OUTBOX_HTTP_PORT']} cannot be used")
    assert finished.errors.count("\n") == 1


async def test_another_producer_of_the_topic_is_told_and_outlived(
    variables: dict[str, str], rows: Rows, http: Http, pulsar_url: str, topic: str, topics: Topics
) -> None:
    """As a direct publish to it would be, or another OutboxTenant with the same topic."""
    variables |= {"OUTBOX_GUARANTEE": "ExactlyOnce"}
    await rows.insert()
    async with started("outbox-projector", "run", **variables) as projector:
        await eventually(_sent(rows, 1))
        client = pulsar.Client(pulsar_url, logger=pulsar.ConsoleLogger(pulsar.LoggerLevel.Error))
        try:
            await asyncio.to_thread(
                client.create_producer, topic, access_mode=pulsar.ProducerAccessMode.ExclusiveWithFencing
            )
            await rows.insert()
            await http.ready_saying("must have no other producer")
        finally:
            await asyncio.to_thread(client.close)
        await eventually(_sent(rows, 2))
        await http.ready_saying("BrokerReachable=True Connected")
        await _stopped(projector)

    assert len(await topics.exactly(2, topic)) == 2
