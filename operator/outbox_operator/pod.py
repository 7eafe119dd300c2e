"""The projector's pod, as data. It fits the restricted Pod Security profile whatever the spec says.

It may not read any Secret: the kubelet mounts them, as optional volumes, so that a Secret which is missing is reported
by the projector (and not by a pod that never starts), and recovery needs nobody when it appears.
"""

from __future__ import annotations

from typing import Any, Final

from outbox_operator.environment import (
    DATABASE_TLS_DIRECTORY,
    DATABASE_URL_DIRECTORY,
    HTTP_PORT,
    PULSAR_DIRECTORY,
    environment,
    secret_files,
)
from outbox_operator.keys import LABEL, Manifest, child_name

TERMINATION_GRACE_SECONDS: Final = 30

API_DIRECTORY: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS: Final = 3600
"""How long a token is good for; the kubelet renews it before. One that Kubernetes mounts by itself is good for a year,
for the sake of clients that never read it again."""

PASSED_ON: Final = ("affinity", "imagePullSecrets", "nodeSelector", "priorityClassName", "tolerations")
"""Fields of spec.pod that are fields of a pod, under the same name."""


def pod_spec(tenant: Manifest, *, image: str) -> Manifest:
    """The spec of the pod template; `image` is for tenants that name none."""
    own = tenant["spec"]["pod"]
    return {
        **{name: own[name] for name in PASSED_ON if own.get(name)},
        "serviceAccountName": child_name(tenant["metadata"]["name"]),
        "automountServiceAccountToken": False,
        # Otherwise each Service of the namespace would become a handful of variables, some of them named like ours.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "topologySpreadConstraints": [_spread(tenant, rule) for rule in own["topologySpread"]],
        "containers": [_container(tenant, image=image)],
        "volumes": list(_volumes(tenant).values()),
    }


def _spread(tenant: Manifest, rule: Manifest) -> Manifest:
    return {
        "topologyKey": rule["topologyKey"],
        "maxSkew": rule["maxSkew"],
        "whenUnsatisfiable": rule["whenUnsatisfiable"],
        "labelSelector": {"matchLabels": {LABEL: tenant["metadata"]["name"]}},
    }


def _volumes(tenant: Manifest) -> dict[str, Manifest]:
    """By the directories in which they are mounted."""
    secret = tenant["spec"]["database"]["urlSecretRef"]
    database = {"secretName": secret["name"], "optional": True, "items": [_item(secret["key"], secret["key"])]}
    volumes: dict[str, Manifest] = {
        DATABASE_URL_DIRECTORY: {"name": "database", "secret": database},
        API_DIRECTORY: {"name": "api-access", "projected": {"sources": _api_access()}},
    }
    for directory, name in ((DATABASE_TLS_DIRECTORY, "database-tls"), (PULSAR_DIRECTORY, "pulsar")):
        if sources := _secrets(tenant, directory):
            volumes[directory] = {"name": name, "projected": {"sources": sources}}
    return volumes


def _api_access() -> list[Manifest]:
    """What every client looks for where Kubernetes would have mounted it."""
    namespace = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    return [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [_item("ca.crt", "ca.crt")]}},
        {"downwardAPI": {"items": [namespace]}},
    ]


def _secrets(tenant: Manifest, directory: str) -> list[Manifest]:
    """What is mounted there: of each Secret only the keys that are used."""
    keys: dict[str, set[str]] = {}
    for file in secret_files(tenant["spec"]).values():
        if file.directory == directory:
            keys.setdefault(file.secret, set()).add(file.key)
    return [
        {"secret": {"name": secret, "optional": True, "items": [_item(key, f"{secret}/{key}") for key in sorted(used)]}}
        for secret, used in keys.items()
    ]


def _item(key: str, path: str) -> Manifest:
    return {"key": key, "path": path}


def _container(tenant: Manifest, *, image: str) -> Manifest:
    spec = tenant["spec"]
    # The projector's own come last and the schema forbids their names to others; so they cannot be overridden.
    variables = {entry["name"]: entry["value"] for entry in spec["pod"].get("env", ())} | environment(tenant)
    return {
        "name": "projector",
        "image": spec.get("image", image),
        "imagePullPolicy": spec["imagePullPolicy"],
        "command": ["outbox-projector", "run"],
        "env": [{"name": name, "value": value} for name, value in variables.items()],
        "ports": [{"name": "http", "containerPort": HTTP_PORT, "protocol": "TCP"}],
        "volumeMounts": [
            {"name": volume["name"], "mountPath": directory, "readOnly": True}
            for directory, volume in _volumes(tenant).items()
        ],
        "resources": spec["resources"],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
        },
        # An import of all libraries takes a while on a busy node: the start has its own, longer patience.
        "startupProbe": _probe("/healthz", periodSeconds=1, failureThreshold=90),
        "livenessProbe": _probe("/healthz", periodSeconds=10, timeoutSeconds=5, failureThreshold=6),
        "readinessProbe": _probe("/readyz", periodSeconds=5, timeoutSeconds=5, failureThreshold=2),
    }


def _probe(path: str, **timing: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "http"}, **timing}
