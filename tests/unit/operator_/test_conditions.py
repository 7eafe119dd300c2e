"""What the status says, as a table of situations."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from outbox_operator.conditions import Observation, Outcome, evaluate, is_current
from outbox_operator.errors import ClusterError, Rejected
from outbox_operator.keys import Key
from outbox_operator.reasons import Reason

Manifest = dict[str, Any]
Build = Callable[..., Manifest]

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)


def at(seconds: float) -> str:
    """The time that many seconds before now."""
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(kind: str, status: str, reason: str, message: str = "", *, age: float = 3600) -> Manifest:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": at(age)}


def deployment(
    *conditions: Manifest, ready: int = 1, replicas: int = 1, updated: int | None = None, generation: int = 1
) -> Manifest:
    return {
        "metadata": {"generation": 1},
        "status": {
            "observedGeneration": generation,
            "replicas": replicas,
            "updatedReplicas": replicas if updated is None else updated,
            "readyReplicas": ready,
            "availableReplicas": ready,
            "conditions": list(conditions),
        },
    }


AVAILABLE = condition("Available", "True", "MinimumReplicasAvailable")
COMPLETE = condition("Progressing", "True", "NewReplicaSetAvailable")
ROLLING = condition("Progressing", "True", "ReplicaSetUpdated")
STUCK = condition("Progressing", "False", "ProgressDeadlineExceeded", "has timed out progressing")
QUOTA = condition("ReplicaFailure", "True", "FailedCreate", "exceeded quota: pods")
RUNNING = deployment(AVAILABLE, COMPLETE)


def unavailable(age: float) -> Manifest:
    return condition("Available", "False", "MinimumReplicasUnavailable", age=age)


def projector(
    *, age: float = 10, database: Manifest | None = None, broker: Manifest | None = None, failing: bool = False
) -> Manifest:
    """A status as the projector reports it."""
    return {
        "projector": {"pending": 0, "reportedTime": at(age)},
        "conditions": [
            database or condition("DatabaseReachable", "True", "Connected"),
            broker or condition("BrokerReachable", "True", "Connected"),
            condition("EventsFailing", "True", "EventsInError", "3 events were given up")
            if failing
            else condition("EventsFailing", "False", "NoErrors"),
        ],
    }


NO_DATABASE = condition("DatabaseReachable", "False", "SecretNotFound", "Secret acme-db does not exist")
NO_BROKER = condition("BrokerReachable", "False", "BrokerUnreachable", "broker:6650 does not answer")
NOT_TRIED = condition("BrokerReachable", "Unknown", "NotTried", "")


DOUBLES = condition("DeduplicationActive", "False", "DeduplicationDisabled", "enable it in the namespace")
EXACTLY_ONCE = {"delivery": {"guarantee": "ExactlyOnce"}}


def and_says(report: Manifest, *more: Manifest) -> Manifest:
    return {**report, "conditions": [*report["conditions"], *more]}


def look(
    tenant: Manifest, live: Manifest | None, *, failure: ClusterError | None = None, now: datetime = NOW
) -> Outcome:
    return evaluate(Observation(tenant, live, now, failure))


def verdicts(outcome: Outcome) -> dict[str, str]:
    return {c["type"]: f"{c['status']}/{c['reason']}" for c in outcome.status["conditions"]}


@pytest.mark.parametrize(
    ("spec", "live", "report", "ready", "progressing", "degraded"),
    [
        pytest.param({}, None, None, "False/Starting", "True/RollingOut", "False/AsExpected", id="just created"),
        pytest.param(
            {},
            deployment(unavailable(5), ROLLING, ready=0),
            None,
            "False/Starting",
            "True/RollingOut",
            "False/AsExpected",
            id="pods are starting",
        ),
        pytest.param(
            {}, RUNNING, None, "False/NotReporting", "False/Stable", "True/NotReporting", id="runs, never reported"
        ),
        pytest.param(
            {},
            deployment(condition("Available", "True", "", age=5), COMPLETE),
            None,
            "False/Starting",
            "False/Stable",
            "False/AsExpected",
            id="runs, has not reported yet",
        ),
        pytest.param({}, RUNNING, projector(), "True/Delivering", "False/Stable", "False/AsExpected", id="all is well"),
        pytest.param(
            {},
            RUNNING,
            projector(failing=True),
            "True/Delivering",
            "False/Stable",
            "True/EventsInError",
            id="delivers, but some events were given up",
        ),
        pytest.param(
            {},
            RUNNING,
            projector(database=NO_DATABASE, broker=NOT_TRIED),
            "False/SecretNotFound",
            "False/Stable",
            "True/SecretNotFound",
            id="no database: its reason, not the broker's",
        ),
        pytest.param(
            {},
            RUNNING,
            projector(broker=NO_BROKER),
            "False/BrokerUnreachable",
            "False/Stable",
            "True/BrokerUnreachable",
            id="no broker",
        ),
        pytest.param(
            {"reporting": {"intervalSeconds": 60}},
            RUNNING,
            projector(age=181),
            "False/NotReporting",
            "False/Stable",
            "True/NotReporting",
            id="silent for three intervals",
        ),
        pytest.param(
            {"reporting": {"intervalSeconds": 600}},
            RUNNING,
            projector(age=181),
            "True/Delivering",
            "False/Stable",
            "False/AsExpected",
            id="reports rarely, as asked",
        ),
        pytest.param(
            {},
            RUNNING,
            projector(age=999, database=NO_DATABASE),
            "False/NotReporting",
            "False/Stable",
            "True/NotReporting",
            id="an old report is none",
        ),
        pytest.param(
            {"state": "Paused"},
            deployment(AVAILABLE, COMPLETE, ready=0, replicas=0),
            projector(database=NO_DATABASE),
            "False/Paused",
            "False/Stable",
            "False/AsExpected",
            id="paused",
        ),
        pytest.param(
            {"state": "Paused"},
            RUNNING,
            projector(),
            "False/Paused",
            "True/RollingOut",
            "False/AsExpected",
            id="paused, pods still ending",
        ),
        pytest.param(
            {"replicas": 0},
            deployment(AVAILABLE, COMPLETE, ready=0, replicas=0),
            projector(),
            "False/ScaledToZero",
            "False/Stable",
            "False/AsExpected",
            id="scaled to zero",
        ),
        pytest.param(
            {},
            deployment(unavailable(20), COMPLETE, ready=0),
            projector(),
            "False/Starting",
            "True/RollingOut",
            "False/AsExpected",
            id="the pod was lost a moment ago",
        ),
        pytest.param(
            {},
            deployment(unavailable(121), COMPLETE, ready=0),
            None,
            "False/ProjectorUnavailable",
            "False/ReplicasMissing",
            "True/ProjectorUnavailable",
            id="the pod does not come back",
        ),
        pytest.param(
            {"replicas": 3},
            deployment(unavailable(121), COMPLETE, ready=2, replicas=3),
            projector(),
            "True/Delivering",
            "False/ReplicasMissing",
            "True/ReplicasMissing",
            id="one of three does not come back",
        ),
        pytest.param(
            {},
            deployment(unavailable(121), STUCK, ready=0),
            None,
            "False/RolloutFailed",
            "False/RolloutFailed",
            "True/RolloutFailed",
            id="pods never became ready",
        ),
        pytest.param(
            {},
            deployment(AVAILABLE, STUCK, ready=1, replicas=2, updated=1),
            projector(),
            "True/Delivering",
            "False/RolloutFailed",
            "True/RolloutFailed",
            id="the new image does not start, the old pod delivers",
        ),
        pytest.param(
            {},
            deployment(unavailable(5), QUOTA, ready=0, replicas=0),
            None,
            "False/PodsNotCreated",
            "False/PodsNotCreated",
            "True/PodsNotCreated",
            id="quota",
        ),
        pytest.param(
            {},
            deployment(AVAILABLE, COMPLETE, generation=0),
            projector(),
            "True/Delivering",
            "True/RollingOut",
            "False/AsExpected",
            id="the Deployment's controller has not seen the new spec",
        ),
        pytest.param(
            {},
            deployment(unavailable(121), ROLLING, ready=0),
            projector(database=NO_DATABASE),
            "False/SecretNotFound",
            "True/RollingOut",
            "True/SecretNotFound",
            id="a pod that is not ready has said why",
        ),
        pytest.param(
            EXACTLY_ONCE,
            RUNNING,
            and_says(projector(), DOUBLES),
            "True/Delivering",
            "False/Stable",
            "True/DeduplicationDisabled",
            id="wants exactly once, and the broker does not deduplicate",
        ),
        pytest.param(
            {},
            RUNNING,
            and_says(projector(), DOUBLES),
            "True/Delivering",
            "False/Stable",
            "False/AsExpected",
            id="at least once needs no deduplication",
        ),
        pytest.param(
            EXACTLY_ONCE,
            RUNNING,
            and_says(projector(), condition("DeduplicationActive", "Unknown", "NotSeenYet")),
            "True/Delivering",
            "False/Stable",
            "False/AsExpected",
            id="not known yet whether the broker deduplicates",
        ),
        pytest.param(
            {**EXACTLY_ONCE, "state": "Paused"},
            deployment(COMPLETE, ready=0, replicas=0, updated=0),
            and_says(projector(), DOUBLES),
            "False/Paused",
            "False/Stable",
            "False/AsExpected",
            id="paused: nobody publishes twice",
        ),
    ],
)
def test_situation(
    tenant: Build,
    spec: Manifest,
    live: Manifest | None,
    report: Manifest | None,
    ready: str,
    progressing: str,
    degraded: str,
) -> None:
    outcome = look(tenant(status=report, **spec), live)
    assert verdicts(outcome) == {"Ready": ready, "Progressing": progressing, "Degraded": degraded}


@pytest.mark.parametrize(
    ("before", "acting_seconds", "ready"),
    [
        pytest.param("Delivering", 10, "True/Delivering", id="the API server was away, and so nobody could report"),
        pytest.param("Delivering", 1000, "False/NotReporting", id="since then there was time enough"),
        pytest.param("NotReporting", 10, "False/NotReporting", id="it was silent before"),
    ],
)
def test_who_begins_to_act_takes_no_old_report_for_silence(
    tenant: Build, before: str, acting_seconds: float, ready: str
) -> None:
    report = projector(age=3600)
    said = condition("Ready", "True" if before == "Delivering" else "False", before)
    seen = tenant(status={**report, "conditions": [*report["conditions"], said]})
    outcome = evaluate(Observation(seen, RUNNING, NOW, acting_since=NOW - timedelta(seconds=acting_seconds)))
    assert verdicts(outcome)["Ready"] == ready


def test_a_rollout_that_waits_for_others_is_progress_and_no_trouble(tenant: Build) -> None:
    outcome = evaluate(Observation(tenant(status=projector()), RUNNING, NOW, queued=True))
    assert verdicts(outcome) == {
        "Ready": "True/Delivering",
        "Progressing": "True/RolloutQueued",
        "Degraded": "False/AsExpected",
    }


@pytest.mark.parametrize("spec", [{}, {"state": "Paused"}], ids=["running", "paused"])
def test_a_conflict_is_said_before_all_else(tenant: Build, spec: Manifest) -> None:
    gone = deployment(COMPLETE, ready=0, replicas=0, updated=0)
    outcome = evaluate(Observation(tenant(status=projector(), **spec), gone, NOW, delivered_by=Key("shop", "older")))
    assert verdicts(outcome) == {
        "Ready": "False/TenantConflict",
        "Progressing": "False/Stable",
        "Degraded": "True/TenantConflict",
    }


def test_what_the_projector_says_is_passed_on_word_by_word(tenant: Build) -> None:
    outcome = look(tenant(status=projector(database=NO_DATABASE)), RUNNING)
    assert outcome.status["conditions"][0]["message"] == "Secret acme-db does not exist"


def test_why_pods_are_not_created_is_passed_on(tenant: Build) -> None:
    outcome = look(tenant(), deployment(QUOTA, ready=0, replicas=0))
    assert "exceeded quota: pods" in outcome.status["conditions"][0]["message"]


def test_children_that_cannot_be_applied_do_not_stop_what_runs(tenant: Build) -> None:
    outcome = look(tenant(status=projector()), RUNNING, failure=Rejected("spec.image: Invalid value"))
    assert verdicts(outcome) == {
        "Ready": "True/Delivering",
        "Progressing": "False/ApplyFailed",
        "Degraded": "True/ApplyFailed",
    }
    assert "spec.image: Invalid value" in outcome.status["conditions"][2]["message"]


GONE = deployment(COMPLETE, ready=0, replicas=0, updated=0)


@pytest.mark.parametrize("spec", [{"state": "Paused"}, {"replicas": 0}], ids=["paused", "scaled to zero"])
@pytest.mark.parametrize("winner", [None, Key("shop", "older")], ids=["alone", "in conflict"])
def test_of_pods_that_could_not_be_ended_no_pause_is_said(tenant: Build, spec: Manifest, winner: Key | None) -> None:
    seen = Observation(tenant(status=projector(), **spec), RUNNING, NOW, Rejected("no"), delivered_by=winner)
    assert verdicts(evaluate(seen)) == {
        "Ready": "False/ApplyFailed",
        "Progressing": "False/ApplyFailed",
        "Degraded": "True/ApplyFailed",
    }


def test_a_pause_that_holds_is_one_whatever_else_could_not_be_applied(tenant: Build) -> None:
    outcome = look(tenant(status=projector(), state="Paused"), GONE, failure=Rejected("no"))
    assert (verdicts(outcome)["Ready"], verdicts(outcome)["Degraded"]) == ("False/Paused", "True/ApplyFailed")


def test_counts_and_selector(tenant: Build) -> None:
    status = look(tenant(replicas=3), deployment(AVAILABLE, COMPLETE, replicas=3, ready=2)).status
    assert status["observedGeneration"] == 3
    assert (status["replicas"], status["readyReplicas"]) == (3, 2)
    assert status["selector"] == "outbox.bento.dev/outboxtenant=acme"


def test_every_condition_tells_its_generation(tenant: Build) -> None:
    assert {c["observedGeneration"] for c in look(tenant(), None).status["conditions"]} == {3}


def test_the_transition_time_stays_while_the_status_stays(tenant: Build) -> None:
    before = projector(broker=NO_BROKER)
    before["conditions"].append(condition("Ready", "False", "Starting", age=500))
    before["conditions"].append(condition("Degraded", "False", "AsExpected", age=500))
    ready, _, degraded = look(tenant(status=before), RUNNING).status["conditions"]
    assert (ready["reason"], ready["lastTransitionTime"]) == ("BrokerUnreachable", at(500))
    assert (degraded["status"], degraded["lastTransitionTime"]) == ("True", at(0))


def test_a_status_that_was_written_is_current_until_something_changes(tenant: Build) -> None:
    subject = tenant(status=projector())
    assert not is_current(subject, look(subject, RUNNING).status)
    written = look(subject, RUNNING).status
    subject["status"] |= {k: v for k, v in written.items() if k != "conditions"}
    subject["status"]["conditions"] += written["conditions"]
    later = NOW + timedelta(seconds=30)
    assert is_current(subject, look(subject, RUNNING, now=later).status)
    assert not is_current(subject, look(subject, deployment(AVAILABLE, COMPLETE, ready=0), now=later).status)


@pytest.mark.parametrize(
    ("spec", "live", "report", "seconds"),
    [
        pytest.param({}, RUNNING, projector(age=10), 530, id="when the report gets too old"),
        pytest.param({}, deployment(unavailable(20), COMPLETE, ready=0), None, 100, id="when starting takes too long"),
        pytest.param({}, deployment(unavailable(20), COMPLETE, ready=0), projector(age=530), 10, id="what is sooner"),
        pytest.param({}, RUNNING, projector(age=600), None, id="nothing more to wait for"),
        pytest.param({"state": "Paused"}, RUNNING, projector(), None, id="nobody waits for a paused one"),
        pytest.param({}, None, None, None, id="only news matter"),
    ],
)
def test_when_time_alone_changes_the_verdict(
    tenant: Build, spec: Manifest, live: Manifest | None, report: Manifest | None, seconds: int | None
) -> None:
    outcome = look(tenant(status=report, **spec), live)
    assert outcome.look_again == (None if seconds is None else NOW + timedelta(seconds=seconds))


def test_reasons_fit_the_schema() -> None:
    assert all(reason.value.isalpha() and reason.value[0].isupper() for reason in Reason)
