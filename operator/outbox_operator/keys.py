"""Names shared by everything in the operator: kinds, keys, labels, and who owns what.

An OutboxTenant and its children live in one namespace. A child says by its controller reference whose it is, and by its
label that it is one of ours: the label selects what is watched, the reference decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

Manifest = dict[str, Any]
"""An object of Kubernetes as plain data, whole or in part."""

FIELD_MANAGER: Final = "outbox-operator"
LABEL: Final = "outbox.bento.dev/outboxtenant"
"""On every child and every pod, with the name of the OutboxTenant; also the selector of the Deployment."""
HASH_ANNOTATION: Final = "outbox.bento.dev/applied-hash"
POD_HASH_ANNOTATION: Final = "outbox.bento.dev/pod-hash"
DEFAULT_IMAGE_ANNOTATION: Final = "outbox.bento.dev/default-image"


class Key(NamedTuple):
    """Which OutboxTenant."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, as the API server addresses it."""

    group: str
    version: str
    kind: str
    plural: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None) -> str:
        """The URL path of a collection, or with `name` of one object; without `namespace`, of all namespaces."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        inside = f"/namespaces/{namespace}" if namespace is not None else ""
        return f"{root}{inside}/{self.plural}" + (f"/{name}" if name is not None else "")


OUTBOX_TENANT: Final = Kind("outbox.bento.dev", "v1alpha1", "OutboxTenant", "outboxtenants")
SERVICE_ACCOUNT: Final = Kind("", "v1", "ServiceAccount", "serviceaccounts")
ROLE: Final = Kind("rbac.authorization.k8s.io", "v1", "Role", "roles")
ROLE_BINDING: Final = Kind("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings")
EVENT: Final = Kind("", "v1", "Event", "events")
LEASE: Final = Kind("coordination.k8s.io", "v1", "Lease", "leases")
DEPLOYMENT: Final = Kind("apps", "v1", "Deployment", "deployments")
POD_DISRUPTION_BUDGET: Final = Kind("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets")

CHILDREN: Final = (SERVICE_ACCOUNT, ROLE, ROLE_BINDING, DEPLOYMENT, POD_DISRUPTION_BUDGET)
"""In the order of their creation: a pod never starts before the rights that it needs."""
WATCHED: Final = (OUTBOX_TENANT, *CHILDREN)


def child_name(tenant_name: str) -> str:
    """The name of all children; the CRD bounds the length so that it fits everywhere."""
    return f"{tenant_name}-projector"


def controller_of(child: Manifest) -> Manifest | None:
    """The owner reference by which an OutboxTenant controls this object, if one does."""
    for reference in child["metadata"].get("ownerReferences", ()):
        kind = (reference["apiVersion"].partition("/")[0], reference["kind"])
        if reference.get("controller") and kind == (OUTBOX_TENANT.group, OUTBOX_TENANT.kind):
            return dict(reference)
    return None


def key_of(kind: Kind, obj: Manifest) -> Key | None:
    """Which OutboxTenant an object belongs to; None for an object that is none of ours."""
    namespace = obj["metadata"]["namespace"]
    if kind == OUTBOX_TENANT:
        return Key(namespace, obj["metadata"]["name"])
    controller = controller_of(obj)
    name = controller["name"] if controller else obj["metadata"].get("labels", {}).get(LABEL)
    return Key(namespace, name) if name else None
