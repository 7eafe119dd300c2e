"""What the status says: pure functions from what is known about a tenant to the operator's part of the status.

Three conditions are ours, and each answers one question:

    Ready         can events flow now? Only when a pod is ready and says that it reaches database and broker.
    Progressing   is a change of the spec still on its way to the pods?
    Degraded      does something need a look, although events may still flow?

What we can know comes from two witnesses. The Deployment says whether pods run. The projector says, in its own
conditions, whether it reaches its two ends, and the time of its last report says whether it still says so: an old
report is none. A condition keeps the time of its last transition as long as its status stays; messages hold no
numbers that change by themselves, so that nothing is written while nothing happens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from outbox_operator.errors import ClusterError
from outbox_operator.keys import OUTBOX_TENANT, Key, Manifest, child_name
from outbox_operator.manifests import PROGRESS_DEADLINE_SECONDS, selector, wanted_replicas
from outbox_operator.reasons import EXPECTED, Reason

SILENT_INTERVALS: Final = 3
"""Reporting intervals without a report after which a projector counts as silent."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One condition without its bookkeeping."""

    status: bool
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that the conditions are made from."""

    tenant: Manifest
    deployment: Manifest | None
    now: datetime
    failure: ClusterError | None = None
    """Why the children could not be applied, when they could not."""
    delivered_by: Key | None = None
    """The older OutboxTenant that claims the same rows, when there is one."""
    queued: bool = False
    """New pods wait, since too many other tenants are being rolled out."""
    acting_since: datetime | None = None
    """When this replica of the operator began to act, if nobody did before: perhaps the API server was away."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The operator's part of the status, ready to be applied, and when time alone will change it."""

    status: Manifest
    look_again: datetime | None
    rolled_out: bool


def evaluate(seen: Observation) -> Outcome:
    """The whole status of a tenant."""
    deployment = _Deployment(seen)
    projector = _Projector(seen, available_since=deployment.available_since)
    ready = _ready(deployment, projector)
    verdicts = {
        "Ready": ready,
        "Progressing": _progressing(deployment),
        "Degraded": _degraded(deployment, projector, ready),
    }
    status = {
        "observedGeneration": seen.tenant["metadata"]["generation"],
        "replicas": deployment.status.get("replicas", 0),
        "readyReplicas": deployment.ready,
        "selector": selector(seen.tenant),
        "conditions": [_condition(seen, name, verdict) for name, verdict in verdicts.items()],
    }
    deadlines = [t for t in (projector.deadline, deployment.overdue_at) if t is not None and t > seen.now]
    look_again = min(deadlines) if deadlines and deployment.wanted > 0 else None
    return Outcome(status, look_again, deployment.rolled_out)


class _Deployment:
    """What the Deployment says, with the questions that the verdicts ask."""

    def __init__(self, seen: Observation) -> None:
        live = seen.deployment or {}
        self._now, self.failure, self.queued = seen.now, seen.failure, seen.queued
        self.paused = seen.tenant["spec"]["state"] == "Paused"
        self.delivered_by = seen.delivered_by
        self.wanted = wanted_replicas(seen.tenant, delivered_by=seen.delivered_by)
        self.status: Manifest = live.get("status", {})
        self.ready = int(self.status.get("readyReplicas", 0))
        self._conditions = by_type(self.status)
        # Until its controller has seen the newest spec, what the status says is about an older one.
        generation = live.get("metadata", {}).get("generation")
        self.observed = bool(live) and self.status.get("observedGeneration") == generation
        self.name = child_name(seen.tenant["metadata"]["name"])
        self.pods = f"kubectl -n {seen.tenant['metadata']['namespace']} describe pods -l {selector(seen.tenant)}"

    def says(self, kind: str, status: str, reason: str | None = None) -> Mapping[str, Any] | None:
        """The Deployment's own condition of that type, when it has this status (and reason)."""
        condition = self._conditions.get(kind, {})
        fits = condition.get("status") == status and reason in (None, condition.get("reason"))
        return condition if fits else None

    @property
    def available_since(self) -> datetime | None:
        condition = self.says("Available", "True")
        return _time(condition["lastTransitionTime"]) if condition else None

    @property
    def overdue_at(self) -> datetime | None:
        """When pods that are missing now will have been missing for too long to be just starting."""
        condition = self.says("Available", "False")
        since = _time(condition["lastTransitionTime"]) if condition else None
        return since + timedelta(seconds=PROGRESS_DEADLINE_SECONDS) if since else None

    @property
    def lost_pods(self) -> bool:
        """Pods that were there once are missing, for too long to be just starting. (Before that it is a rollout.)"""
        was_complete = self.observed and self.says("Progressing", "True", "NewReplicaSetAvailable") is not None
        return was_complete and self.overdue_at is not None and self._now >= self.overdue_at

    @property
    def rolled_out(self) -> bool:
        """All pods are of the newest spec and available, and no others are left."""
        counts = (self.status.get(name, 0) for name in ("updatedReplicas", "replicas", "availableReplicas"))
        return self.observed and all(count == self.wanted for count in counts)

    @property
    def cannot_end(self) -> Verdict | None:
        """There should be no pods, and since that could not be applied there are."""
        return self.problem if self.failure and self.wanted == 0 and self.status.get("replicas") else None

    @property
    def problem(self) -> Verdict | None:
        """What keeps pods from coming up, in the words of whoever knows best."""
        if self.failure is not None:
            return Verdict(False, Reason.APPLY_FAILED, f"The projector's objects cannot be applied: {self.failure}")
        if failed := self.says("ReplicaFailure", "True"):
            return Verdict(False, Reason.PODS_NOT_CREATED, f"Pods cannot be created: {failed['message']}")
        if self.observed and self.says("Progressing", "False", "ProgressDeadlineExceeded"):
            cause = f"The pods of {self.name} do not become ready (image, node or crash?). See: {self.pods}"
            return Verdict(False, Reason.ROLLOUT_FAILED, cause)
        return None


class _Projector:
    """What the projector says, and whether it still says so."""

    def __init__(self, seen: Observation, *, available_since: datetime | None) -> None:
        status = seen.tenant.get("status", {})
        self._conditions = by_type(status)
        self.patience = SILENT_INTERVALS * int(seen.tenant["spec"]["reporting"]["intervalSeconds"])
        self.reported = _time(status.get("projector", {}).get("reportedTime"))
        # While the API server was away nobody could report: those that were well get their time anew.
        was_well = self._conditions.get("Ready", {}).get("status") == "True"
        reported = _latest(self.reported, seen.acting_since if was_well else None)
        # A projector that has just come up gets as much time for its first report as for any other.
        heard = _latest(reported, available_since)
        self.deadline = heard + timedelta(seconds=self.patience) if heard else None
        self.silent = self.deadline is not None and seen.now >= self.deadline
        fresh = reported is not None and seen.now < reported + timedelta(seconds=self.patience)
        self.fresh = fresh and {"DatabaseReachable", "BrokerReachable"} <= self._conditions.keys()
        self._exactly_once = seen.tenant["spec"]["delivery"]["guarantee"] == "ExactlyOnce"

    @property
    def problem(self) -> Verdict | None:
        """The first of its two ends that it does not reach; the database comes first, as it does for the projector."""
        for kind in ("DatabaseReachable", "BrokerReachable"):
            condition = self._conditions.get(kind)
            if self.fresh and condition is not None and condition["status"] != "True":
                return Verdict(False, condition["reason"], condition["message"])
        return None

    @property
    def broken_guarantee(self) -> Verdict | None:
        """Events flow, but not once each, as the spec wants it."""
        condition = self._conditions.get("DeduplicationActive", {})
        if self.fresh and self._exactly_once and condition.get("status") == "False":
            return Verdict(True, condition["reason"], condition["message"])
        return None

    @property
    def failing_events(self) -> Verdict | None:
        condition = self._conditions.get("EventsFailing", {})
        if self.fresh and condition.get("status") == "True":
            return Verdict(True, Reason.EVENTS_IN_ERROR, condition["message"])
        return None


def _ready(deployment: _Deployment, projector: _Projector) -> Verdict:
    if cannot_end := deployment.cannot_end:
        return cannot_end
    if deployment.delivered_by:
        cause = (
            f"OutboxTenant {deployment.delivered_by.name}, which is older, names the same Secret, schema, table and "
            "tenantId: to deliver is up to that one, also while it runs no pods. "
        )
        cure = "This one runs none: delete one of the two, or correct its spec."
        return Verdict(False, Reason.TENANT_CONFLICT, cause + cure)
    if deployment.paused:
        return Verdict(False, Reason.PAUSED, "spec.state is Paused: events wait in the table until it is Running.")
    if deployment.wanted == 0:
        return Verdict(False, Reason.SCALED_TO_ZERO, "spec.replicas is 0: events wait in the table.")
    if deployment.ready == 0:
        return deployment.problem or projector.problem or _without_pods(deployment)
    if projector.silent:
        silence = f"The projector has not reported for {projector.patience} seconds or more. See: kubectl logs deploy/"
        return Verdict(False, Reason.NOT_REPORTING, silence + deployment.name)
    if not projector.fresh:
        return Verdict(False, Reason.STARTING, "The projector runs and has not reported yet.")
    return projector.problem or Verdict(True, Reason.DELIVERING, "The projector reaches database and broker.")


def _without_pods(deployment: _Deployment) -> Verdict:
    if deployment.lost_pods:
        cause = f"No pod of {deployment.name} is ready any more. See: {deployment.pods}"
        return Verdict(False, Reason.PROJECTOR_UNAVAILABLE, cause)
    return Verdict(False, Reason.STARTING, "The projector's pods are starting.")


def _progressing(deployment: _Deployment) -> Verdict:
    if problem := deployment.problem:
        return problem
    if deployment.queued:
        return Verdict(True, Reason.ROLLOUT_QUEUED, "The pods will be replaced when fewer other tenants' pods are.")
    if deployment.rolled_out:
        return Verdict(False, Reason.STABLE, "All pods are as the spec wants them.")
    if deployment.lost_pods:
        return Verdict(False, Reason.REPLICAS_MISSING, f"Not all pods are ready. See: {deployment.pods}")
    return Verdict(True, Reason.ROLLING_OUT, "The pods are being brought to what the spec wants.")


def _degraded(deployment: _Deployment, projector: _Projector, ready: Verdict) -> Verdict:
    if problem := deployment.problem:
        return replace(problem, status=True)
    if not ready.status and ready.reason not in EXPECTED:
        return replace(ready, status=True)
    if deployment.lost_pods:
        return Verdict(True, Reason.REPLICAS_MISSING, f"Not all pods are ready. See: {deployment.pods}")
    if deployment.wanted > 0 and (trouble := projector.broken_guarantee or projector.failing_events):
        return trouble
    return Verdict(False, Reason.AS_EXPECTED, "Nothing needs a look.")


def _condition(seen: Observation, kind: str, verdict: Verdict) -> Manifest:
    status = "True" if verdict.status else "False"
    before = by_type(seen.tenant.get("status", {})).get(kind, {})
    kept = before.get("lastTransitionTime") if before.get("status") == status else None
    return {
        "type": kind,
        "status": status,
        "reason": str(verdict.reason),
        "message": verdict.message[:4096],
        "lastTransitionTime": kept or seen.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "observedGeneration": seen.tenant["metadata"]["generation"],
    }


def status_manifest(tenant: Manifest, status: Manifest) -> Manifest:
    """What is sent to the API server in order to set `status`."""
    metadata = {"name": tenant["metadata"]["name"], "namespace": tenant["metadata"]["namespace"]}
    return {
        "apiVersion": OUTBOX_TENANT.api_version,
        "kind": OUTBOX_TENANT.kind,
        "metadata": metadata,
        "status": status,
    }


def is_told_of(tenant: Manifest) -> bool:
    """Whether the tenant's status holds anything of ours."""
    return "observedGeneration" in tenant.get("status", {})


def is_observed(tenant: Manifest) -> bool:
    """Whether the tenant's status is about its spec as it is."""
    observed: bool = tenant.get("status", {}).get("observedGeneration") == tenant["metadata"]["generation"]
    return observed


def is_current(tenant: Manifest, status: Manifest) -> bool:
    """Whether the tenant has this status already, apart from what the projector adds to it."""
    live = tenant.get("status", {})
    ours = {condition["type"]: condition for condition in status["conditions"]}
    same_conditions = {k: v for k, v in by_type(live).items() if k in ours} == ours
    return same_conditions and all(live.get(k) == v for k, v in status.items() if k != "conditions")


def by_type(status: Manifest) -> dict[str, Any]:
    """The conditions of a status."""
    return {condition["type"]: condition for condition in status.get("conditions", ())}


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _latest(*moments: datetime | None) -> datetime | None:
    return max((moment for moment in moments if moment is not None), default=None)
