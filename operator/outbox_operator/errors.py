"""What can go wrong between the operator and the API server.

    ClusterError
    ├── Unreachable   no answer, or one that says "not now" (429, 5xx): try again later
    ├── NotFound      the object, its namespace or its kind does not exist
    ├── Conflict      somebody else owns a field that we want to set
    ├── Forbidden     our own rights, a quota or an admission policy say no: a person has to act
    └── Rejected      the API server, or a webhook, does not take the object as it is: a person has to act
        └── Invalid   the API server finds the object invalid: the OutboxTenant has to change, or what others set beside

A webhook that the API server can't reach is a 500, and so is an etcd that changes its leader: the answer alone does not
tell what passes by itself.

They carry the API server's own words, which name the field. Raised only by cluster.py, with the client's error as
cause.
"""

from __future__ import annotations

from typing import Final


class ClusterError(Exception):
    """A request to the API server failed."""

    retry_after_seconds: float | None = None
    """What the API server asks us to wait, if it does."""


class Unreachable(ClusterError):
    """No answer, or one that asks to come back later."""


class NotFound(ClusterError):
    """What was asked for does not exist."""


class Conflict(ClusterError):
    """Another field manager owns a field that was to be set."""


class Forbidden(ClusterError):
    """Refused by rights, quota or admission."""


class Rejected(ClusterError):
    """Refused as it is; where a webhook denies without a code of its own, that is what the API server says."""


class Invalid(Rejected):
    """Refused since fields of it are invalid, or do not go together."""


REFUSALS: Final = (Conflict, Forbidden, Rejected)
"""Answers that will be the same until somebody changes something."""
