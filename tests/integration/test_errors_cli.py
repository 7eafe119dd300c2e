"""`bento-outbox errors` on the real Postgres: only ERR rows are ever touched, and only those that were asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from bento_outbox import MisuseError, failed_events
from bento_outbox.cli import main
from bento_outbox.failed_events import FailedEvents
from bento_outbox.failed_filter import Filter
from bento_outbox.schema import apply_schema
from bento_outbox.tenant_roles import bind_role, bound_roles
from tests.conftest import unique
from tests.support.roles import Roles
from tests.support.rows import Rows

Errors = Callable[..., Awaitable[Result]]

ALL = ("--failed-until", "9999-01-01")
"""A filter that holds nothing back, for `discard`, which needs one."""


@pytest.fixture
def errors(database_url: str, tenant: str) -> Errors:
    """Runs `bento-outbox errors` for the tenant; in a thread, since the command starts an event loop of its own."""

    async def run(command: str, *options: str, answer: str | None = None, url: str = database_url) -> Result:
        arguments = ["errors", command, "--tenant", tenant, "--database-url", url, *options]
        return await asyncio.to_thread(CliRunner().invoke, main, arguments, input=answer)

    return run


async def _failed(rows: Rows, **columns: Any) -> str:
    values = {"status": "ERR", "retry_cnt": 5, "last_error": "refused: Schema mismatch", **columns}
    return str(await rows.insert(**values))


@pytest.fixture
async def others(rows: Rows) -> AsyncIterator[None]:
    """Rows that no command may touch are as they were afterwards."""
    await rows.insert(status="NEW", retry_cnt=3, aggregate_id="waits")
    await rows.insert(status="SENT", aggregate_id="sent")
    before = [row for row in await rows.all() if row.aggregate_id in ("waits", "sent")]
    yield
    assert [row for row in await rows.all() if row.aggregate_id in ("waits", "sent")] == before


@pytest.mark.usefixtures("others")
async def test_list_as_json_has_the_whole_error(errors: Errors, rows: Rows) -> None:
    error = "refused\n" + "x" * 300
    event = await _failed(rows, last_error=error, aggregate_id="order-7")
    (listed,) = json.loads((await errors("list", "--output", "json")).stdout)
    assert (listed["id"], listed["error"], listed["aggregate_id"]) == (event, error, "order-7")
    assert (listed["type"], listed["attempts"]) == ("orders.Placed", 5)
    assert datetime.fromisoformat(listed["created_at"]).tzinfo


async def test_list_as_a_table_is_a_line_an_event_whatever_is_in_it(errors: Errors, rows: Rows) -> None:
    event = await _failed(rows, last_error="first\n\x1b[31msecond" + "x" * 300, sql={"created_at": "'infinity'"})
    head, line = (await errors("list")).stdout.splitlines()
    assert head.split() == ["ID", "CREATED", "FAILED", "TYPE", "AGGREGATE", "ATTEMPTS", "ERROR"]
    assert line.startswith(event)
    assert "\x1b" not in line
    assert "first  [31msecond" in line


@pytest.mark.parametrize("command", [["list"], ["requeue"], ["discard", *ALL]])
async def test_nothing_to_do(errors: Errors, tenant: str, command: list[str]) -> None:
    assert (await errors(*command)).stdout == f"no failed events of tenant {tenant} match\n"


@pytest.mark.usefixtures("others")
async def test_requeued_events_have_all_attempts_again_and_say_so(errors: Errors, rows: Rows, tenant: str) -> None:
    await _failed(rows, headers={"traceparent": "00-1"}, sql={"available_at": "now() + interval '1 day'"})
    assert (await errors("requeue")).stdout == f"1 event of tenant {tenant} requeued\n"
    (row,) = [row for row in await rows.all() if row.aggregate_id == "order-1"]
    assert (row.status, row.retry_cnt, row.last_error) == ("NEW", 0, "refused: Schema mismatch")
    assert row.available_at <= datetime.now(UTC)
    assert row.headers["traceparent"] == "00-1"
    assert datetime.fromisoformat(row.headers["requeued_at"]).tzinfo == UTC


@pytest.mark.usefixtures("others")
async def test_discarded_events_are_gone(errors: Errors, rows: Rows, tenant: str) -> None:
    await _failed(rows)
    done = await errors("discard", "--yes", *ALL)
    assert done.stdout == f"1 event of tenant {tenant} discarded\n"
    assert "will be deleted and never delivered: 1 orders.Placed" in done.stderr
    assert await rows.statuses() == ["NEW", "SENT"]


@pytest.mark.parametrize(("answer", "left"), [("n\n", 1), ("", 1), ("y\n", 0)])
async def test_discard_asks(errors: Errors, rows: Rows, answer: str, left: int) -> None:
    await _failed(rows)
    done = await errors("discard", *ALL, answer=answer)
    assert (done.exit_code, await rows.count("ERR")) == (left, left)


@pytest.mark.parametrize("command", ["requeue", "discard"])
async def test_a_dry_run_changes_nothing(errors: Errors, rows: Rows, command: str) -> None:
    await _failed(rows)
    before = await rows.all()
    assert "1 event" in (await errors(command, "--dry-run", *ALL)).stdout
    assert await rows.all() == before


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--type", "orders.Paid"),
        ("--aggregate", "order-2"),
        ("--error", "TOO large"),
        ("--since", "2026-01-02T00:00"),
        ("--until", "2026-01-01T02:00+01:30"),
        ("--failed-since", "2026-01-02T00:00"),
        ("--failed-until", "2026-01-01T00:30Z"),
    ],
)
async def test_each_filter(errors: Errors, rows: Rows, option: str, value: str) -> None:
    made = datetime(2026, 1, 1, 12, tzinfo=UTC)
    wanted = {
        "--type": {"type": "orders.Paid"},
        "--aggregate": {"aggregate_id": "order-2"},
        "--error": {"last_error": "Too Large: 6 MB"},
        "--since": {"created_at": datetime(2026, 1, 2, tzinfo=UTC)},
        "--until": {"created_at": datetime(2026, 1, 1, 0, 29, tzinfo=UTC)},
        "--failed-since": {"available_at": datetime(2026, 1, 2, tzinfo=UTC)},
        "--failed-until": {"available_at": datetime(2026, 1, 1, 0, 29, tzinfo=UTC)},
    }[option]
    times = {"created_at": made, "available_at": made}
    await _failed(rows, **times)
    event = await _failed(rows, **{**times, **wanted})
    await _failed(rows, **times, last_error=None)
    assert [
        listed["id"] for listed in json.loads((await errors("list", option, value, "--output", "json")).stdout)
    ] == [event]


async def test_by_id_and_limit_the_oldest_first(errors: Errors, rows: Rows) -> None:
    made = [await _failed(rows) for _ in range(4)]
    await errors("requeue", "--id", made[3], "--id", str(uuid4()))
    await errors("requeue", "--limit", "2")
    assert await rows.statuses() == ["NEW", "NEW", "ERR", "NEW"]


async def test_another_tenants_events_are_not_touched(errors: Errors, rows: Rows, engine: AsyncEngine) -> None:
    other = Rows(async_sessionmaker(engine), unique("other"))
    event = await _failed(other)
    await _failed(rows)
    await errors("discard", "--yes", "--id", event)
    await errors("requeue")
    assert await other.statuses() == ["ERR"]


async def test_many_in_several_batches(
    engine: AsyncEngine, rows: Rows, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failed_events, "BATCH_SIZE", 3)
    ids = await rows.insert_many(10)
    await rows.change("status = 'ERR'")
    failed = FailedEvents(engine)
    everything = Filter(tenant_id=tenant)
    assert [event.id for event in await failed.find(everything)] == ids
    assert (await failed.select(everything, limit=7)).ids == ids[:7]
    assert (await failed.select(everything, limit=6)).types == {"orders.Placed": 6}
    assert await failed.requeue(tenant, ids[:7]) == 7
    assert await failed.discard(tenant, ids) == 3
    assert await rows.statuses() == ["NEW"] * 7


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--since", "yesterday"], "'yesterday' is not a time"),
        (["--id", "seven"], "'seven' is not a valid UUID"),
        (["--limit", "0"], "0 is not in the range"),
        (["--since", "2026-01-02", "--until", "2026-01-01"], "since is not before until"),
        (["--failed-since", "2026-01-02", "--failed-until", "2026-01-02"], "failed_since is not before failed_until"),
        (["--tenant", ""], "a tenant's id is not empty"),
        (["--error", ""], "error is empty"),
        (["--aggregate", ""], "aggregate_id is empty"),
        (
            ["--table", "nowhere"],
            'relation "nowhere" does not exist: run `bento-outbox schema apply`, or name the table with --table',
        ),
    ],
)
async def test_wrong_input_gets_a_sentence(errors: Errors, options: list[str], sentence: str) -> None:
    done = await errors("requeue", *options)
    assert done.exit_code != 0
    assert sentence in done.stderr
    assert "Traceback" not in done.output


async def test_a_discard_says_what_it_means(errors: Errors, rows: Rows) -> None:
    await _failed(rows)
    done = await errors("discard", "--yes", "--limit", "10")
    assert done.exit_code != 0
    assert "name the events that are meant" in done.stderr
    assert await rows.statuses() == ["ERR"]


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(MisuseError, match="since has no time zone"):
        Filter(tenant_id="acme", since=datetime(2026, 1, 1))


async def test_a_role_bound_as_operator_may_do_all_this_for_its_tenant(
    errors: Errors, empty_engine: AsyncEngine, empty_database_url: str, tenant: str
) -> None:
    await apply_schema(empty_engine, row_level_security=True)
    roles = Roles(empty_engine, empty_database_url)
    try:
        role = await roles.create(unique("oncall"))
        await bind_role(empty_engine, role, tenant_id=tenant, use="operator")
        assert [binding.use for binding in await bound_roles(empty_engine)] == ["operator"]
        rows = Rows(async_sessionmaker(empty_engine), tenant)
        kept, _ = await _failed(rows), await _failed(rows)
        assert (await errors("requeue", "--id", kept, url=roles.url(role))).exit_code == 0
        assert (await errors("discard", "--yes", *ALL, url=roles.url(role))).exit_code == 0
        assert await rows.statuses() == ["NEW"]
        writer = await roles.create(unique("writer"))
        await bind_role(empty_engine, writer, tenant_id=tenant, use="writer")
        await _failed(rows)
        refused = (await errors("discard", "--yes", *ALL, url=roles.url(writer))).stderr
        assert "permission denied for table outbox: use the owner of the table, or a role that" in refused
    finally:
        await roles.close()
