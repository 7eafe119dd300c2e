"""What an OutboxTenant asks for, as data: pure functions from the custom resource to its children.

The schema of the CRD has filled in every default before an object gets here, so nothing is defaulted twice. A child
gets exactly the fields that matter to us; by server-side apply everything else stays with whoever set it, such as the
annotation of `kubectl rollout restart`.

Rights: the projector's service account may get and patch the status of its own OutboxTenant and nothing else; what it
gets is the whole object, so that it sees the requests in the spec.

There is a PodDisruptionBudget as soon as there are two pods. It is not removed when there is one pod again: it always
lets one pod go, so with one pod it forbids nothing, and the operator needs no right to delete.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from outbox_operator.keys import (
    CHILDREN,
    DEFAULT_IMAGE_ANNOTATION,
    DEPLOYMENT,
    HASH_ANNOTATION,
    LABEL,
    OUTBOX_TENANT,
    POD_DISRUPTION_BUDGET,
    POD_HASH_ANNOTATION,
    ROLE,
    ROLE_BINDING,
    SERVICE_ACCOUNT,
    Key,
    Kind,
    Manifest,
    child_name,
)
from outbox_operator.pod import pod_spec

PROGRESS_DEADLINE_SECONDS: Final = 120
"""A projector starts within seconds; after this time without progress the Deployment says so and we report it."""


def children(tenant: Manifest, *, image: str, replicas: int) -> list[tuple[Kind, Manifest]]:
    """All children of a tenant in the order in which they are to be applied; `image` is for tenants that name none."""
    wanted = {
        SERVICE_ACCOUNT: _service_account(tenant),
        ROLE: _role(tenant),
        ROLE_BINDING: _role_binding(tenant),
        DEPLOYMENT: _deployment(tenant, image=image, replicas=replicas),
    }
    if replicas > 1:
        wanted[POD_DISRUPTION_BUDGET] = _disruption_budget(tenant)
    return [(kind, _with_hash(wanted[kind])) for kind in CHILDREN if kind in wanted]


def selector(tenant: Manifest) -> str:
    """The label selector of the projector's pods, as the scale subresource wants it."""
    return f"{LABEL}={tenant['metadata']['name']}"


def wanted_replicas(tenant: Manifest, *, delivered_by: Key | None = None) -> int:
    """How many pods there should be: none while it is paused, or when another OutboxTenant delivers the same rows."""
    return 0 if tenant["spec"]["state"] == "Paused" or delivered_by else int(tenant["spec"]["replicas"])


def _metadata(tenant: Manifest) -> dict[str, Any]:
    name = tenant["metadata"]["name"]
    return {
        "name": child_name(name),
        "namespace": tenant["metadata"]["namespace"],
        "labels": {
            LABEL: name,
            "app.kubernetes.io/name": "outbox-projector",
            "app.kubernetes.io/instance": name,
            "app.kubernetes.io/part-of": "bento-outbox",
            "app.kubernetes.io/managed-by": "outbox-operator",
        },
        "ownerReferences": [
            {
                "apiVersion": OUTBOX_TENANT.api_version,
                "kind": OUTBOX_TENANT.kind,
                "name": name,
                "uid": tenant["metadata"]["uid"],
                "controller": True,
                # Would need the right to update finalizers where that admission plugin is on; we have no finalizers.
                "blockOwnerDeletion": False,
            }
        ],
    }


def _object(kind: Kind, tenant: Manifest, **fields: Any) -> Manifest:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": _metadata(tenant), **fields}


def _service_account(tenant: Manifest) -> Manifest:
    # The pod that needs a token asks for it; nothing else that runs as this account gets one unasked.
    account = _object(SERVICE_ACCOUNT, tenant, automountServiceAccountToken=False)
    account["metadata"]["annotations"] = tenant["spec"]["pod"].get("serviceAccountAnnotations", {})
    return account


def _role(tenant: Manifest) -> Manifest:
    rule = {
        "apiGroups": [OUTBOX_TENANT.group],
        "resources": [f"{OUTBOX_TENANT.plural}/status"],
        "resourceNames": [tenant["metadata"]["name"]],
        "verbs": ["get", "patch"],
    }
    return _object(ROLE, tenant, rules=[rule])


def _role_binding(tenant: Manifest) -> Manifest:
    name, namespace = child_name(tenant["metadata"]["name"]), tenant["metadata"]["namespace"]
    return _object(
        ROLE_BINDING,
        tenant,
        roleRef={"apiGroup": ROLE.group, "kind": ROLE.kind, "name": name},
        subjects=[{"kind": SERVICE_ACCOUNT.kind, "name": name, "namespace": namespace}],
    )


def _deployment(tenant: Manifest, *, image: str, replicas: int) -> Manifest:
    own = tenant["spec"]["pod"]
    template = {
        "metadata": {"labels": own.get("labels", {}) | _metadata(tenant)["labels"]},
        "spec": pod_spec(tenant, image=image),
    }
    if annotations := own.get("annotations"):
        template["metadata"]["annotations"] = annotations
    deployment = _object(
        DEPLOYMENT,
        tenant,
        spec={
            "replicas": replicas,
            "paused": False,  # after a `kubectl rollout pause` no change of the spec would reach the pods
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": PROGRESS_DEADLINE_SECONDS,
            "selector": {"matchLabels": {LABEL: tenant["metadata"]["name"]}},
            # The old pod delivers until the new one is ready: an image that does not start costs no delivery.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template,
        },
    )
    deployment["metadata"]["annotations"] = {POD_HASH_ANNOTATION: _digest(template)}
    if "image" not in tenant["spec"]:
        deployment["metadata"]["annotations"][DEFAULT_IMAGE_ANNOTATION] = image
    return deployment


def _disruption_budget(tenant: Manifest) -> Manifest:
    return _object(
        POD_DISRUPTION_BUDGET,
        tenant,
        spec={
            "maxUnavailable": 1,
            "selector": {"matchLabels": {LABEL: tenant["metadata"]["name"]}},
            # A pod that is not ready delivers nothing: it must not keep a node from being drained.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )


def _with_hash(manifest: Manifest) -> Manifest:
    """Adds what lets the next reconcile see whether this very manifest was applied, without asking for field owners."""
    annotations = manifest["metadata"].get("annotations", {}) | {HASH_ANNOTATION: _digest(manifest)}
    return manifest | {"metadata": manifest["metadata"] | {"annotations": annotations}}


def _digest(content: Manifest) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:16]
