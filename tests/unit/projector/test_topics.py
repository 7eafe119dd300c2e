"""The names of topics, and of the producers on them."""

from __future__ import annotations

import pytest

from bento_outbox import BusUnavailable
from bento_outbox.table import outbox_table
from outbox_projector.app import producer_name
from outbox_projector.flights import FlightRefused, Lease
from outbox_projector.pulsar_lane import PulsarLanePublisher
from outbox_projector.topics import full_name, is_partition


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("orders", "persistent://public/default/orders"),
        ("shop/eu/orders", "persistent://shop/eu/orders"),
        ("persistent://shop/eu/orders", "persistent://shop/eu/orders"),
        ("non-persistent://shop/eu/orders", "non-persistent://shop/eu/orders"),
        ("eu/orders", "eu/orders"),
        (" ", "persistent://public/default/ "),
    ],
)
def test_a_topic_has_one_name(name: str, full: str) -> None:
    assert full_name(name) == full
    assert full_name(full) == full


@pytest.mark.parametrize(("name", "partition"), [("t", False), ("t-partition-0", True), ("t-partition-of-x", False)])
def test_a_partition_is_known_by_its_name(name: str, partition: bool) -> None:
    assert is_partition(name) is partition


@pytest.mark.parametrize(("configured", "error"), [("t-partition-0", BusUnavailable), ("t", FlightRefused)])
async def test_a_single_partition_is_refused_since_its_lane_has_it_by_another_name(
    configured: str, error: type[Exception]
) -> None:
    """The broker would take ids of the one for those of the other."""
    publisher = PulsarLanePublisher("pulsar://127.0.0.1:1", producer_name="lane", configured_topic=configured)
    with pytest.raises(error, match="t-partition-0 is a single partition: name the topic"):
        await publisher.open("t-partition-0")


def test_the_name_of_a_producer_tells_tenants_tables_lanes_and_databases_apart() -> None:
    leases = [
        Lease(lane=0, epoch=1),
        Lease(lane=1, epoch=1),
        Lease(lane=0, epoch=1, origin="1f0c"),
        Lease(lane=0, epoch=2),
    ]
    names = [producer_name("acme", outbox_table, lease) for lease in leases]

    assert names == [
        'outbox/acme/"outbox"/0',
        'outbox/acme/"outbox"/1',
        'outbox/acme/"outbox"/0/1f0c',
        'outbox/acme/"outbox"/0',
    ]
