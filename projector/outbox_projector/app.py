"""The composition root of `outbox-projector run`, and the order in which things stop.

SIGTERM or SIGINT → retention ends, the loop finishes the batch in hand and begins no other → the reporter writes a last
status → connections close. A side task that dies ends the process: a projector that cannot report is one nobody can
trust.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial

import structlog

from bento_outbox import MessageBus
from bento_outbox.channels import channel_of
from bento_outbox.message_form import message_of
from bento_outbox.pulsar_bus import PulsarMessageBus
from bento_outbox.sql_files import Named, TableName, quoted_name
from outbox_projector.at_least_once import AtLeastOnce
from outbox_projector.bus_lane import publishers_on
from outbox_projector.database import Database, FixedUrl, UrlFile, UrlSource
from outbox_projector.deduplication import WatchedPublisher
from outbox_projector.flights import LanePublisher, Lease
from outbox_projector.health import Health
from outbox_projector.http_endpoints import endpoints, served
from outbox_projector.kubernetes_status import KubernetesStatus
from outbox_projector.lane_store import PostgresLaneStore
from outbox_projector.listener import Listener
from outbox_projector.loop import LaneProjector
from outbox_projector.metrics import Metrics
from outbox_projector.policies import Polling, Retries
from outbox_projector.postgres_leases import PostgresLeases, this_process
from outbox_projector.pulsar_lane import PulsarLanePublisher
from outbox_projector.reporter import Reporter
from outbox_projector.request_store import RequestStore
from outbox_projector.requeue import Requests, carrying_out
from outbox_projector.retention import Limit, Retention
from outbox_projector.settings import Settings
from outbox_projector.store import Store
from outbox_projector.topics import full_name

log = structlog.get_logger()

LAST_REPORT_SECONDS = 5
"""What is left of terminationGracePeriodSeconds (30) after shutdown_grace_seconds (20), halved."""


async def run(settings: Settings) -> None:
    """Runs the projector until a signal ends it."""
    stopping = _signalled()
    table = TableName(settings.database_table, settings.database_schema)
    metrics = Metrics(settings.tenant_id)
    health = Health(metrics, exactly_once=settings.guarantee == "ExactlyOnce")
    database = Database(
        _url_source(settings),
        name=f"outbox-projector {settings.tenant_id}",
        trusted_certificates_file=settings.database_trusted_certificates_file,
    )
    bus = PulsarMessageBus(
        settings.pulsar_connection(),
        topic=settings.pulsar_topic,
        timeout_seconds=settings.pulsar_timeout_seconds,
        compression=settings.pulsar_compression,
        batching=settings.pulsar_batching,
        cloudevents_source=settings.pulsar_cloudevents_source,
        lookup_only=settings.guarantee == "ExactlyOnce",
    )
    projector = _projector(settings, table, database, bus, health)
    listener = Listener(
        database, channel=channel_of(table, settings.tenant_id), ring=projector.wake, became=health.listening
    )
    async with AsyncExitStack() as closing:
        closing.push_async_callback(database.close)
        closing.push_async_callback(bus.close)
        writer = None
        if settings.resource_name is not None:
            writer = KubernetesStatus(name=settings.resource_name, namespace=settings.resource_namespace)
            closing.push_async_callback(writer.close)
        reporter = Reporter(
            connect=database,
            store=Store(table, settings.tenant_id),
            bus=bus,
            tenant_id=settings.tenant_id,
            health=health,
            writer=writer,
            heartbeat_seconds=settings.status_interval_seconds,
            carries=lambda: projector.carries,
        )
        if writer is not None:
            store = RequestStore(database, table, settings.tenant_id)
            await closing.enter_async_context(carrying_out(Requests(resource=writer, store=store, health=health)))
        await closing.enter_async_context(served(endpoints(health, metrics), settings.http_port))
        log.info("started", **settings.shown())
        retention = _retention(settings, table, database, metrics)
        aside: dict[str, Listener | Retention] = {"listener": listener, "retention": retention}
        await _run_until(stopping, projector, reporter, aside, settings.shutdown_grace_seconds)
    log.info("stopped", published=health.sent_total)


def _projector(settings: Settings, table: Named, database: Database, bus: MessageBus, health: Health) -> LaneProjector:
    template = settings.pulsar_topic
    return LaneProjector(
        leases=PostgresLeases(database, table, tenant_id=settings.tenant_id, name=this_process(), lanes=settings.lanes),
        store=PostgresLaneStore(
            database,
            table,
            tenant_id=settings.tenant_id,
            retries=Retries(
                maximum=settings.max_retries,
                initial_seconds=settings.backoff_initial_milliseconds / 1000,
                longest_seconds=settings.backoff_max_seconds,
            ),
            topic_of=lambda event: full_name(event.topic or template.format(tenant=event.tenant_id, type=event.type)),
            ordered=settings.ordering == "Aggregate",
            by_key=settings.pulsar_batching == "KeyBased",
            keep_sent=settings.retention_sent_seconds > 0,
            hold_aggregates=settings.on_error == "HoldAggregate",
        ),
        publisher_of=_publisher_of(settings, table, bus, health),
        batch_size=settings.batch_size,
        polling=Polling(
            fastest_seconds=settings.poll_min_milliseconds / 1000,
            slowest_seconds=settings.poll_max_milliseconds / 1000,
            quiet_seconds=settings.poll_quiet_milliseconds / 1000,
        ),
        observer=health,
        listening=lambda: health.is_listening,
    )


def _publisher_of(
    settings: Settings, table: Named, bus: MessageBus, health: Health
) -> Callable[[Lease], LanePublisher]:
    template = settings.pulsar_topic

    def batches(lease: Lease, name: str | None) -> PulsarLanePublisher:
        return PulsarLanePublisher(
            settings.pulsar_connection(),
            producer_name=name,
            lane=lease.lane,
            configured_topic=None if "{type}" in template else full_name(template.format(tenant=settings.tenant_id)),
            timeout_seconds=settings.pulsar_timeout_seconds,
            compression=settings.pulsar_compression,
            batching=settings.pulsar_batching,
            message_of=partial(message_of, cloudevents_source=settings.pulsar_cloudevents_source),
        )

    if settings.guarantee == "AtLeastOnce":
        over_bus = publishers_on(bus)
        return lambda lease: AtLeastOnce(batches(lease, None), over_bus(lease))
    return lambda lease: WatchedPublisher(batches(lease, producer_name(settings.tenant_id, table, lease)), health)


def producer_name(tenant_id: str, table: Named, lease: Lease) -> str:
    """For ever the same, or the broker would not know what it has already; and no other lane's, in any database."""
    name = f"outbox/{tenant_id}/{quoted_name(table)}/{lease.lane}"
    return f"{name}/{lease.origin}" if lease.origin else name


def _retention(settings: Settings, table: Named, database: Database, metrics: Metrics) -> Retention:
    limits = [Limit("SENT", settings.retention_sent_seconds)]
    if settings.retention_err_seconds is not None:
        limits.append(Limit("ERR", settings.retention_err_seconds))
    return Retention(database, table, settings.tenant_id, *limits, deleted=metrics.deleted.inc)


def _signalled() -> asyncio.Event:
    """Set by SIGTERM and SIGINT. First of all: a pod may be stopped while it starts."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping


async def _run_until(
    stopping: asyncio.Event,
    projector: LaneProjector,
    reporter: Reporter,
    aside: Mapping[str, Listener | Retention],
    grace_seconds: float,
) -> None:
    """aside: by name, what nothing depends on and may be cancelled."""
    async with asyncio.TaskGroup() as tasks:
        delivery = tasks.create_task(projector.run_forever(), name="delivery")
        reporting = tasks.create_task(reporter.run_forever(), name="reporter")
        besides = [tasks.create_task(loop.run_forever(), name=name) for name, loop in aside.items()]
        await stopping.wait()
        for task in besides:
            task.cancel()
        log.info("stopping: the batch in hand is finished, nothing new is begun", grace_seconds=grace_seconds)
        projector.stop()
        _, late = await asyncio.wait([delivery], timeout=grace_seconds)
        if late:
            # What is open in the database is rolled back, or ended by the next pod: nothing is lost.
            log.warning("the batch in hand did not finish in time and is left to the next projector")
            delivery.cancel()
        reporter.stop()
        _, late = await asyncio.wait([reporting], timeout=LAST_REPORT_SECONDS)
        if late:
            log.warning("the last report did not get through in time")
            reporting.cancel()


def _url_source(settings: Settings) -> UrlSource:
    if settings.database_url is not None:
        return FixedUrl(settings.database_url.text)
    assert settings.database_url_file is not None
    return UrlFile(settings.database_url_file, settings.database_url_secret)
