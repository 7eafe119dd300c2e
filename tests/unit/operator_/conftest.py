"""OutboxTenants as the API server would hand them out: with the defaults of the CRD's schema filled in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

Manifest = dict[str, Any]
CRD = Path(__file__).parents[3] / "crds" / "outboxtenants.yaml"


@cache
def schema() -> Manifest:
    return yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def with_defaults(value: Any, rules: Manifest) -> Any:
    """Structural defaulting, as the API server does it."""
    if isinstance(value, dict):
        for name, inner in rules.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                with_defaults(value[name], inner)
    return value


def merge(base: Manifest, changes: Manifest) -> Manifest:
    """`changes` over `base`, map by map."""
    for name, value in changes.items():
        both_maps = isinstance(value, dict) and isinstance(base.get(name), dict)
        base[name] = merge(base[name], value) if both_maps else value
    return base


def build_tenant(*, name: str = "acme", status: Manifest | None = None, **spec: Any) -> Manifest:
    tenant: Manifest = {
        "apiVersion": "outbox.bento.dev/v1alpha1",
        "kind": "OutboxTenant",
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": "4f0c",
            "creationTimestamp": "2026-03-01T10:00:00Z",
            "generation": 3,
            "resourceVersion": "100",
        },
        "spec": {
            "tenantId": "acme-eu",
            "database": {"urlSecretRef": {"name": "acme-db"}},
            "pulsar": {"serviceUrl": "pulsar://broker:6650"},
        },
    }
    merge(tenant["spec"], copy.deepcopy(spec))
    if status is not None:
        tenant["status"] = status
    return with_defaults(tenant, schema())


@pytest.fixture(scope="session")
def tenant() -> Callable[..., Manifest]:
    """Builds an OutboxTenant; keyword arguments go into the spec, `name` and `status` where they belong."""
    return build_tenant
