"""What an OutboxTenant asks for, as data: pure functions from the custom resource to its four children.

The schema of the CRD has filled in every default before an object gets here, so nothing is defaulted twice. A child
gets exactly the fields that matter to us; by server-side apply everything else stays with whoever set it, such as the
annotation of `kubectl rollout restart`.

Rights: the projector's service account may get and patch the status of its own OutboxTenant and nothing else; what it
gets is the whole object, so that it sees the requests in the spec. It may not read the Secret with the database's URL:
the kubelet mounts it, as an optional volume, so that a Secret which is missing is reported by the projector (and not by
a pod that never starts), and recovery needs nobody when it appears.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from outbox_operator.environment import DATABASE_URL_DIRECTORY, HTTP_PORT, environment
from outbox_operator.keys import (
    CHILDREN,
    DEPLOYMENT,
    HASH_ANNOTATION,
    LABEL,
    OUTBOX_TENANT,
    ROLE,
    ROLE_BINDING,
    SERVICE_ACCOUNT,
    Kind,
    Manifest,
    child_name,
)

TERMINATION_GRACE_SECONDS: Final = 30
PROGRESS_DEADLINE_SECONDS: Final = 120
"""A projector starts within seconds; after this time without progress the Deployment says so and we report it."""


def children(tenant: Manifest, *, image: str) -> list[tuple[Kind, Manifest]]:
    """All children of a tenant in the order in which they are to be applied; `image` is for tenants that name none."""
    build = {
        SERVICE_ACCOUNT: _service_account(tenant),
        ROLE: _role(tenant),
        ROLE_BINDING: _role_binding(tenant),
        DEPLOYMENT: _deployment(tenant, image=image),
    }
    return [(kind, _with_hash(build[kind])) for kind in CHILDREN]


def selector(tenant: Manifest) -> str:
    """The label selector of the projector's pods, as the scale subresource wants it."""
    return f"{LABEL}={tenant['metadata']['name']}"


def wanted_replicas(tenant: Manifest) -> int:
    return 0 if tenant["spec"]["state"] == "Paused" else int(tenant["spec"]["replicas"])


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
    return _object(SERVICE_ACCOUNT, tenant, automountServiceAccountToken=False)


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


def _deployment(tenant: Manifest, *, image: str) -> Manifest:
    metadata = _metadata(tenant)
    return _object(
        DEPLOYMENT,
        tenant,
        spec={
            "replicas": wanted_replicas(tenant),
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": PROGRESS_DEADLINE_SECONDS,
            "selector": {"matchLabels": {LABEL: tenant["metadata"]["name"]}},
            # The old pod delivers until the new one is ready: an image that does not start costs no delivery.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": metadata["labels"]}, "spec": _pod(tenant, image=image)},
        },
    )


def _pod(tenant: Manifest, *, image: str) -> Manifest:
    secret = tenant["spec"]["database"]["urlSecretRef"]
    return {
        "serviceAccountName": child_name(tenant["metadata"]["name"]),
        "automountServiceAccountToken": True,
        # Otherwise each Service of the namespace would become a handful of variables, some of them named like ours.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(tenant, image=image)],
        "volumes": [
            {
                "name": "database",
                "secret": {
                    "secretName": secret["name"],
                    "optional": True,
                    "items": [{"key": secret["key"], "path": secret["key"]}],
                },
            }
        ],
    }


def _container(tenant: Manifest, *, image: str) -> Manifest:
    spec = tenant["spec"]
    return {
        "name": "projector",
        "image": spec.get("image", image),
        "imagePullPolicy": spec["imagePullPolicy"],
        "command": ["outbox-projector", "run"],
        "env": [{"name": name, "value": value} for name, value in environment(tenant).items()],
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "volumeMounts": [{"name": "database", "mountPath": DATABASE_URL_DIRECTORY, "readOnly": True}],
        "resources": spec["resources"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
        # An import of all libraries takes a while on a busy node: the start has its own, longer patience.
        "startupProbe": {"httpGet": _http_get("/healthz"), "periodSeconds": 1, "failureThreshold": 90},
        "livenessProbe": {
            "httpGet": _http_get("/healthz"),
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "readinessProbe": {
            "httpGet": _http_get("/readyz"),
            "periodSeconds": 5,
            "timeoutSeconds": 5,
            "failureThreshold": 2,
        },
    }


def _http_get(path: str) -> dict[str, Any]:
    return {"path": path, "port": "http"}


def _with_hash(manifest: Manifest) -> Manifest:
    """Adds what lets the next reconcile see whether this very manifest was applied, without asking for field owners."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    return manifest | {"metadata": manifest["metadata"] | {"annotations": {HASH_ANNOTATION: digest}}}
