"""Every reason that the operator gives of its own. docs/reasons.md says of each what to do; a test compares the two.

What the projector reports is passed on with the projector's reasons.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """A reason of a condition, and of an Event."""

    DELIVERING = "Delivering"
    PAUSED = "Paused"
    TENANT_CONFLICT = "TenantConflict"
    SCALED_TO_ZERO = "ScaledToZero"
    STARTING = "Starting"
    NOT_REPORTING = "NotReporting"
    PROJECTOR_UNAVAILABLE = "ProjectorUnavailable"
    ROLLOUT_FAILED = "RolloutFailed"
    PODS_NOT_CREATED = "PodsNotCreated"
    APPLY_FAILED = "ApplyFailed"
    ROLLING_OUT = "RollingOut"
    ROLLOUT_QUEUED = "RolloutQueued"
    STABLE = "Stable"
    REPLICAS_MISSING = "ReplicasMissing"
    EVENTS_IN_ERROR = "EventsInError"
    AS_EXPECTED = "AsExpected"


EXPECTED: Final = frozenset({Reason.DELIVERING, Reason.PAUSED, Reason.SCALED_TO_ZERO, Reason.STARTING})
"""Reasons of Ready that somebody asked for, or that pass by themselves."""
