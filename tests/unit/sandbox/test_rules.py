"""What is started, given what was asked for and what the environment names."""

from __future__ import annotations

import pytest

from sandbox import inside, kubernetes, postgres, rules
from sandbox.errors import SandboxError
from sandbox.rules import Plan, Relay

pytestmark = pytest.mark.usefixtures("cache")

ADDRESSES = {"localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "db.example": "198.51.100.7"}
EXISTING = {"DATABASE_URL": "postgresql://db.example/app", "PULSAR_URL": "pulsar://db.example:6650"}


def plan(*requested: str, **environ: str) -> Plan:
    return rules.plan(requested, environ, resolve=ADDRESSES.__getitem__)


def test_by_default_every_part_is_started_in_order() -> None:
    assert plan() == Plan(start=("postgres", "pulsar", "kubernetes", "images"))


def test_only_what_was_asked_for_is_started() -> None:
    assert plan("pulsar", "postgres").start == ("postgres", "pulsar")


def test_what_a_part_needs_is_started_with_it() -> None:
    assert plan("images").start == ("kubernetes", "images")


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SandboxError, match=r"no part 'mysql'; the parts are postgres, pulsar, kubernetes, images"):
        plan("mysql")


def test_nothing_is_started_when_all_parts_exist() -> None:
    found = plan(KUBECONFIG="/home/me/.kube/config", **EXISTING)
    assert found == Plan(existing=("postgres", "pulsar", "kubernetes", "images"))


def test_an_existing_cluster_with_our_own_database_is_refused() -> None:
    with pytest.raises(SandboxError, match="set DATABASE_URL and PULSAR_URL"):
        plan(KUBECONFIG="/home/me/.kube/config", PULSAR_URL="pulsar://db.example:6650")


def test_a_cluster_that_was_not_asked_for_does_not_matter() -> None:
    assert plan("postgres", KUBECONFIG="/home/me/.kube/config").start == ("postgres",)


def test_variables_of_a_shell_in_the_sandbox_name_no_existing_parts() -> None:
    assert plan(**postgres.environment(), **kubernetes.environment()).existing == ()


def test_an_empty_variable_names_nothing() -> None:
    assert plan("postgres", DATABASE_URL="").start == ("postgres",)


def test_an_existing_database_keeps_its_address_and_gets_a_relay() -> None:
    found = plan("postgres", "kubernetes", DATABASE_URL="postgresql://me:secret@db.example:5433/app?sslmode=require")
    assert found.start == ("kubernetes",)
    assert found.relays == (
        Relay(
            variable="DATABASE_URL",
            url="postgresql://me:secret@198.51.100.7:5433/app?sslmode=require",
            listen="198.51.100.7",
            target="198.51.100.7",
            port=5433,
        ),
    )


def test_a_database_on_this_machine_is_relayed_to_where_pods_reach_it() -> None:
    (relay,) = plan("postgres", "kubernetes", DATABASE_URL="postgresql://me@localhost/app").relays
    assert relay.url == "postgresql://me@172.30.0.1/app"
    assert relay.arguments == ["172.30.0.1", "5432", "127.0.0.1", "5432"]


def test_a_broker_that_calls_itself_localhost_is_refused_for_pods() -> None:
    with pytest.raises(SandboxError, match="to a pod is the pod itself"):
        plan("pulsar", "kubernetes", PULSAR_URL="pulsar://localhost:6650")


def test_a_broker_on_this_machine_is_relayed_when_there_are_no_pods() -> None:
    (relay,) = plan("postgres", "pulsar", PULSAR_URL="pulsar://localhost:6650").relays
    assert (relay.url, relay.listen) == ("pulsar://127.0.0.1:6650", "127.0.0.1")


def test_the_admin_address_of_an_existing_broker_is_relayed_too() -> None:
    found = plan(
        *("postgres", "pulsar"), PULSAR_URL="pulsar://db.example:6650", PULSAR_ADMIN_URL="http://db.example:8080"
    )
    assert [relay.variable for relay in found.relays] == ["PULSAR_URL", "PULSAR_ADMIN_URL"]


@pytest.mark.parametrize("url", ["postgresql://a:5432,b:5432/app", "mysql://a/app"])
def test_a_url_that_no_relay_can_serve_is_refused_by_its_variable(url: str) -> None:
    with pytest.raises(SandboxError, match="DATABASE_URL is not a URL with one host"):
        plan("postgres", "kubernetes", DATABASE_URL=url)


def test_no_relay_is_needed_when_nothing_is_started() -> None:
    assert plan("postgres", DATABASE_URL="postgresql://localhost/app").relays == ()


def test_an_obstacle_is_the_sentence_of_the_refusal() -> None:
    sentence = rules.obstacle(["postgres", "kubernetes"], {"KUBECONFIG": "/home/me/.kube/config"})
    assert sentence is not None
    assert "KUBECONFIG names an existing cluster" in sentence


def test_no_parts_meet_no_obstacle() -> None:
    assert rules.obstacle([], {}) is None


def test_a_plan_survives_its_way_into_the_sandbox() -> None:
    found = plan("postgres", "kubernetes", DATABASE_URL="postgresql://me@localhost/app")
    assert inside.decoded(inside.encoded(found)) == found
