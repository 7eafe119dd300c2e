"""The second loop, with fakes for the table, the bus and the API server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import structlog
from structlog.testing import CapturingLogger

from bento_outbox import BusUnavailable, InMemoryMessageBus
from outbox_projector.database_errors import DatabaseUnavailable
from outbox_projector.health import BROKER_SILENT_SECONDS, Health
from outbox_projector.report import Status, timestamp
from outbox_projector.reporter import MEASURING_SHARE, Reporter, StatusWriteFailed
from outbox_projector.store import Backlog

NOTHING_WAITS = Backlog(pending=0, errors=0, oldest_seconds=0)
NO_DATABASE = DatabaseUnavailable("no database", reason="DatabaseUnreachable")


class Table:
    """Stands for the store."""

    def __init__(self) -> None:
        self.answer: Backlog | DatabaseUnavailable = NOTHING_WAITS
        self.measured = 0

    async def measure(self, _session_factory: object) -> Backlog:
        self.measured += 1
        if isinstance(self.answer, DatabaseUnavailable):
            raise self.answer
        return self.answer


class ApiServer:
    """Keeps what was written."""

    def __init__(self) -> None:
        self.written: list[Status] = []
        self.refuses = False
        self.asked = asyncio.Event()
        self.latest: dict[str, Any] = {}
        self.shown: dict[str, Any] = {}

    async def read(self) -> None:
        self.latest = self.shown

    async def write(self, status: Status) -> None:
        self.asked.set()
        if self.refuses:
            raise StatusWriteFailed("the API server answered 500")
        self.written.append(status)
        self.shown = self.latest = {**self.shown, "status": status}

    def another_reports(self, clock: Any, *, seconds_ago: float = 0) -> None:
        """Another pod of the tenant writes its report."""
        reported = timestamp(clock() - timedelta(seconds=seconds_ago))
        self.shown = {**self.shown, "status": {"projector": {"reportedTime": reported}}}


class CountingBus(InMemoryMessageBus):
    """Counts how often it was checked."""

    def __init__(self) -> None:
        super().__init__()
        self.checks = 0

    async def check(self, tenant_id: str) -> None:
        self.checks += 1
        await super().check(tenant_id)


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def api() -> ApiServer:
    return ApiServer()


@pytest.fixture
def bus() -> CountingBus:
    return CountingBus()


@pytest.fixture
def reporter(table: Any, api: ApiServer, bus: CountingBus, health: Health, clock: Any) -> Reporter:
    return Reporter(
        connect=table,
        store=table,
        bus=bus,
        tenant_id="acme",
        health=health,
        writer=api,
        heartbeat_seconds=60,
        clock=clock,
        monotonic=clock.monotonic,
        uniform=max,
    )


class Pauses:
    """Stands for time: takes the pauses and does what is to happen in each, then stops the reporter."""

    def __init__(self, *happens: Callable[[], object]) -> None:
        self.taken: list[float] = []
        self.reporter: Reporter
        self._happens = iter(happens)

    async def __call__(self, seconds: float, event: asyncio.Event) -> None:
        if event is self.reporter._stopping:
            return  # the least pause; the other is asked for what is left beyond it
        self.taken.append(seconds)
        next(self._happens, self.reporter.stop)()


@pytest.fixture
def new_reporter(table: Any, bus: CountingBus, health: Health, clock: Any) -> Callable[..., Reporter]:
    def make(pauses: Pauses, **options: Any) -> Reporter:
        settings = {"connect": table, "store": table, "bus": bus, "tenant_id": "acme", "health": health}
        settings |= {"clock": clock, "uniform": lambda low, high: 1.0, "within": pauses, "writer": None} | options
        pauses.reporter = Reporter(**settings)
        return pauses.reporter

    return make


def _nothing() -> None: ...


async def test_while_nothing_stirs_the_pauses_double_to_a_minute(
    new_reporter: Callable[..., Reporter], table: Table
) -> None:
    pauses = Pauses(*[_nothing] * 6)
    await new_reporter(pauses).run_forever()

    # The first look tells that the database and the broker are there, which is worth another one soon.
    assert pauses.taken == [0, 0, 2, 6, 14, 30, 58]
    assert table.measured == len(pauses.taken) + 1


async def test_no_pause_is_longer_than_the_time_between_two_reports(new_reporter: Callable[..., Reporter]) -> None:
    """The operator would take the silence for that of a projector that has gone."""
    pauses = Pauses(*[_nothing] * 6)
    await new_reporter(pauses, heartbeat_seconds=5).run_forever()

    assert pauses.taken == [0, 0, 2, 3, 3, 3, 3]


async def test_after_something_was_settled_it_looks_soon(new_reporter: Callable[..., Reporter], health: Health) -> None:
    pauses = Pauses(*[_nothing] * 5, lambda: health.settled(sent=1, retried=0, failed=0), _nothing)
    await new_reporter(pauses).run_forever()

    assert pauses.taken[5:] == [30, 0, 2]


async def test_a_broker_that_goes_is_worth_a_look_but_not_each_failed_attempt(
    new_reporter: Callable[..., Reporter], health: Health, table: Table
) -> None:
    table.answer = Backlog(pending=1, errors=0, oldest_seconds=0)

    def fails() -> None:
        health.broker_failed(BusUnavailable("gone", reason="BrokerUnreachable"))

    pauses = Pauses(*[_nothing] * 4, fails, fails, _nothing)
    await new_reporter(pauses).run_forever()

    assert pauses.taken[4:] == [14, 0, 2, 6]


async def test_what_could_not_be_written_does_not_wait_for_a_minute(
    new_reporter: Callable[..., Reporter], api: ApiServer
) -> None:
    api.refuses = True
    pauses = Pauses(*[_nothing] * 7)
    await new_reporter(pauses, writer=api).run_forever()

    assert max(pauses.taken) == 13


async def test_where_counting_is_slow_the_pauses_are_longer(
    new_reporter: Callable[..., Reporter],
) -> None:
    least: list[float] = []
    seconds = itertools.count(step=2)  # each measurement takes two
    pauses = Pauses()

    async def within(pause: float, event: asyncio.Event) -> None:
        least.append(pause)
        pauses.reporter.stop()

    await new_reporter(pauses, within=within, monotonic=lambda: next(seconds)).run_forever()

    assert least[0] == 2 / MEASURING_SHARE


def _condition(status: Status, kind: str) -> tuple[str, str]:
    return next((c["status"], c["reason"]) for c in status["conditions"] if c["type"] == kind)


async def test_the_first_report_is_written_at_once(reporter: Reporter, api: ApiServer) -> None:
    await reporter.report()

    assert [status["projector"]["pending"] for status in api.written] == [0]


async def test_before_the_first_report_it_reads_since_when_things_are_so(reporter: Reporter, api: ApiServer) -> None:
    since = "2025-12-25T00:00:00Z"
    api.shown = {"status": {"conditions": [{"type": "EventsFailing", "status": "False", "lastTransitionTime": since}]}}
    await reporter.report()

    assert [c["lastTransitionTime"] for c in api.written[0]["conditions"] if c["type"] == "EventsFailing"] == [since]


async def test_without_news_the_next_write_is_the_heartbeat(reporter: Reporter, api: ApiServer, clock: Any) -> None:
    await reporter.report()
    clock.advance(59)
    await reporter.report()
    assert len(api.written) == 1

    clock.advance(1)
    await reporter.report()
    assert len(api.written) == 2

    clock.advance(59)
    await reporter.report()
    assert len(api.written) == 2


async def test_news_are_written_at_once(reporter: Reporter, api: ApiServer, table: Table) -> None:
    await reporter.report()
    table.answer = Backlog(pending=1, errors=1, oldest_seconds=0)
    await reporter.report()

    assert [status["projector"]["errors"] for status in api.written] == [0, 1]


async def test_a_clock_that_is_set_back_silences_nothing(
    reporter: Reporter, api: ApiServer, table: Table, clock: Any
) -> None:
    await reporter.report()
    clock.set_back(3600)
    table.answer = Backlog(pending=1, errors=1, oldest_seconds=0)
    await reporter.report()
    clock.advance(60)
    await reporter.report()

    assert [status["projector"]["errors"] for status in api.written] == [0, 1, 1]


async def test_a_write_that_failed_is_tried_again_at_the_next_turn(reporter: Reporter, api: ApiServer) -> None:
    api.refuses = True
    await reporter.report()
    assert api.written == []

    api.refuses = False
    await reporter.report()
    assert len(api.written) == 1


async def test_the_rate_is_that_since_the_last_write(
    reporter: Reporter, api: ApiServer, health: Health, clock: Any
) -> None:
    await reporter.report()
    health.settled(sent=600, retried=0, failed=0)
    clock.advance(60)
    await reporter.report()
    clock.advance(60)
    await reporter.report()

    assert [status["projector"]["eventsPerSecond"] for status in api.written] == [0, 10, 0]


async def test_an_idle_broker_is_checked(reporter: Reporter, api: ApiServer, bus: CountingBus) -> None:
    bus.go_down()
    await reporter.report()
    bus.come_back()
    await reporter.report()

    assert [_condition(status, "BrokerReachable") for status in api.written] == [
        ("False", "BrokerUnreachable"),
        ("True", "Connected"),
    ]


async def test_while_rows_wait_what_the_loop_says_of_the_broker_counts(
    reporter: Reporter, api: ApiServer, bus: CountingBus, table: Table, health: Health
) -> None:
    table.answer = Backlog(pending=1, errors=0, oldest_seconds=0)
    health.broker_failed(BusUnavailable("quota exceeded", reason="BrokerRefused"))
    await reporter.report()

    assert bus.checks == 0
    assert _condition(api.written[0], "BrokerReachable") == ("False", "BrokerRefused")


async def test_a_broker_that_nobody_tried_yet_is_checked_though_rows_wait(
    reporter: Reporter, api: ApiServer, table: Table
) -> None:
    """All rows may wait for a later time: then the loop has nothing to publish, and the pod would never be ready."""
    table.answer = Backlog(pending=1, errors=0, oldest_seconds=0)
    await reporter.report()

    assert _condition(api.written[0], "BrokerReachable") == ("True", "Connected")


@pytest.mark.parametrize("carries", [True, False])
async def test_what_a_check_found_is_taken_back_by_one_where_no_lane_tries_what_waits(
    stands_by: Reporter, replica: Replica, api: ApiServer, bus: CountingBus, table: Table, clock: Any, carries: bool
) -> None:
    """Held rows may wait for ever, and a replica without a lane never publishes."""
    replica.carries = carries
    bus.go_down()
    await stands_by.report()
    table.answer = Backlog(pending=1, errors=0, oldest_seconds=0)
    bus.come_back()
    clock.advance(BROKER_SILENT_SECONDS)
    await stands_by.report()

    assert [_condition(status, "BrokerReachable")[0] for status in api.written] == ["False", "True"]


async def test_without_a_database_the_broker_is_not_checked(
    reporter: Reporter, api: ApiServer, bus: CountingBus, table: Table
) -> None:
    table.answer = NO_DATABASE
    await reporter.report()

    assert bus.checks == 0
    assert _condition(api.written[0], "DatabaseReachable") == ("False", "DatabaseUnreachable")
    assert _condition(api.written[0], "BrokerReachable") == ("Unknown", "NotTried")


async def test_when_the_loop_reaches_the_database_again_the_broker_is_checked(
    reporter: Reporter, api: ApiServer, table: Table, health: Health
) -> None:
    table.answer = NO_DATABASE
    await reporter.report()
    table.answer = Backlog(pending=3, errors=0, oldest_seconds=0)
    health.database_answered()
    await reporter.report()

    assert _condition(api.written[-1], "DatabaseReachable") == ("True", "Connected")
    assert _condition(api.written[-1], "BrokerReachable") == ("True", "Connected")


async def test_a_database_that_answers_here_but_not_to_the_loop_stays_unreachable(
    reporter: Reporter, api: ApiServer, health: Health
) -> None:
    """A role that may read and not update, or a standby: the condition must not flap."""
    health.database_failed(DatabaseUnavailable("may not update", reason="DatabasePermissionDenied"))
    await reporter.report()

    assert _condition(api.written[0], "DatabaseReachable") == ("False", "DatabasePermissionDenied")
    assert api.written[0]["projector"]["pending"] == 0


async def test_a_measurement_that_fails_while_the_loop_works_is_no_outage(
    reporter: Reporter, api: ApiServer, table: Table, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    health.database_answered()
    table.answer = NO_DATABASE
    logs = CapturingLogger()
    monkeypatch.setattr("outbox_projector.reporter.log", logs)
    await reporter.report()

    assert _condition(api.written[0], "DatabaseReachable") == ("True", "Connected")
    # The counts stay as they were, and nobody else would tell why.
    [line] = logs.calls
    assert ("not counted" in line.args[0], line.kwargs) == (True, {"cause": "no database"})


async def test_that_what_waits_is_not_counted_is_said_once(reporter: Reporter, table: Table) -> None:
    def uncounted(cause: str) -> Backlog:
        return Backlog(pending=1, errors=0, oldest_seconds=60, uncounted=cause)

    with structlog.testing.capture_logs() as logs:
        for answer in (uncounted("too slow"), uncounted("too slow"), NO_DATABASE, NOTHING_WAITS, uncounted("too slow")):
            table.answer = answer
            await reporter.report()

    said = [line["cause"] for line in logs if "not counted" in line["event"]]
    assert said == ["too slow", "no database", "too slow"]


async def test_stop_ends_the_loop_after_a_last_report(reporter: Reporter, api: ApiServer, table: Table) -> None:
    running = asyncio.create_task(reporter.run_forever())
    await api.asked.wait()
    table.answer = Backlog(pending=9, errors=0, oldest_seconds=0)
    reporter.stop()
    await running

    # Pending rows alone are not worth a write, but this one stays for as long as no pod runs.
    assert [status["projector"]["pending"] for status in api.written] == [0, 9]


@pytest.mark.parametrize("trouble", [None, NO_DATABASE])
async def test_the_last_word_is_that_of_the_pod_that_goes_on(
    reporter: Reporter, api: ApiServer, health: Health, clock: Any, trouble: DatabaseUnavailable | None
) -> None:
    """After a change of the spec either of the two may be the one that reaches its database."""
    if trouble is not None:
        health.database_failed(trouble)
    await reporter.report()
    clock.advance(1)
    api.another_reports(clock)
    await reporter.report(last=True)

    assert len(api.written) == 1


async def test_a_pod_that_ends_reports_what_is_left_when_the_others_have_fallen_silent(
    reporter: Reporter, api: ApiServer, clock: Any
) -> None:
    await reporter.report()
    api.another_reports(clock)
    clock.advance(60)
    await reporter.report(last=True)

    assert len(api.written) == 2


@pytest.mark.parametrize("spec", [{"state": "Paused", "replicas": 2}, {"state": "Running", "replicas": 0}])
async def test_where_all_pods_end_each_reports_what_is_left(
    reporter: Reporter, api: ApiServer, clock: Any, spec: dict[str, Any]
) -> None:
    """The first to end does not know what the second one still delivers."""
    await reporter.report()
    clock.advance(1)
    api.shown = {"spec": spec}
    api.another_reports(clock)
    await reporter.report(last=True)

    assert len(api.written) == 2


async def test_without_a_writer_the_health_is_kept_up_to_date(table: Any, bus: CountingBus, health: Health) -> None:
    reporter = Reporter(connect=table, store=table, bus=bus, tenant_id="acme", health=health, writer=None)
    await reporter.report()

    assert health.backlog == NOTHING_WAITS
    assert health.knows_its_state


class Replica:
    """Whether it carries a lane."""

    carries = False

    def __call__(self) -> bool:
        return self.carries


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
def stands_by(table: Any, api: ApiServer, bus: CountingBus, health: Health, clock: Any, replica: Replica) -> Reporter:
    """Of a replica without a lane, with another one whose report is half a minute old."""
    api.another_reports(clock, seconds_ago=30)
    own = {"connect": table, "store": table, "bus": bus, "tenant_id": "acme", "health": health, "writer": api}
    own |= {"clock": clock, "monotonic": clock.monotonic}
    return Reporter(**own, heartbeat_seconds=60, uniform=max, carries=replica)


async def test_a_replica_that_stands_by_leaves_the_report_to_the_other(stands_by: Reporter, api: ApiServer) -> None:
    await stands_by.report()
    await stands_by.report(last=True)
    assert api.written == []


async def test_a_replica_that_stands_by_reports_when_no_other_does(
    stands_by: Reporter, api: ApiServer, clock: Any
) -> None:
    await stands_by.report()
    clock.advance(60)
    await stands_by.report()
    assert len(api.written) == 1


async def test_the_only_replica_of_a_new_tenant_reports_before_it_has_a_lane(
    stands_by: Reporter, api: ApiServer
) -> None:
    api.shown = {"status": {}}
    await stands_by.report()
    assert len(api.written) == 1


async def test_a_replica_that_stands_by_reports_what_is_wrong(
    stands_by: Reporter, api: ApiServer, health: Health
) -> None:
    health.database_failed(NO_DATABASE)
    await stands_by.report()
    assert len(api.written) == 1


async def test_a_replica_that_stands_by_takes_its_trouble_back_itself(
    stands_by: Reporter, api: ApiServer, health: Health, clock: Any
) -> None:
    """Its own report is not another's: the one that delivers saw no trouble, and is silent until its heartbeat."""
    health.database_failed(NO_DATABASE)
    await stands_by.report()
    health.database_answered()
    clock.advance(1)
    await stands_by.report()

    assert [_condition(status, "DatabaseReachable")[0] for status in api.written] == ["False", "True"]


async def test_a_replica_that_takes_over_reports_at_once_and_until_its_end(
    stands_by: Reporter, api: ApiServer, replica: Replica
) -> None:
    await stands_by.report()
    replica.carries = True
    await stands_by.report()
    assert len(api.written) == 1
    replica.carries = False  # the lanes are given back before the last report
    await stands_by.report(last=True)
    assert len(api.written) == 2
