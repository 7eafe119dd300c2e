"""OutboxTenants are found by what they say, by the API server and not by whoever lists them all; and what it lists."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import ApplyTenant
from tests.e2e.kubectl import Kubectl, Refused


def selected(kubectl: Kubectl, selector: str) -> set[str]:
    """The names of the OutboxTenants that a field selector finds."""
    return set(kubectl("get", "obt", "--field-selector", selector, "-o", "name").split())


def test_tenants_are_selected_by_their_fields(apply_tenant: ApplyTenant, kubectl: Kubectl) -> None:
    one, other = apply_tenant(state="Paused"), apply_tenant(state="Paused")
    kubectl.patch("obt", other.name, {"spec": {"state": "Running"}})
    first, second = (f"outboxtenant.outbox.bento.dev/{tenant.name}" for tenant in (one, other))
    assert selected(kubectl, f"spec.tenantId={one.name}") == {first}
    assert selected(kubectl, "spec.state=Running") == {second}
    assert selected(kubectl, f"spec.state!=Running,spec.tenantId!={other.name}") == {first}
    assert selected(kubectl, f"spec.database.urlSecretRef.name={other.name}") == {second}
    assert selected(kubectl, "spec.tenantId=nobody") == set()


def test_what_cannot_be_selected_by_is_said(kubectl: Kubectl) -> None:
    with pytest.raises(Refused, match=r"field label not supported: spec\.replicas"):
        selected(kubectl, "spec.replicas=1")


def test_they_are_of_the_category_of_the_product(apply_tenant: ApplyTenant, kubectl: Kubectl) -> None:
    tenant = apply_tenant(state="Paused")
    assert kubectl("get", "bento", "-o", "name").split() == [f"outboxtenant.outbox.bento.dev/{tenant.name}"]


def test_the_columns(apply_tenant: ApplyTenant, kubectl: Kubectl) -> None:
    def columns(*options: str) -> list[str]:
        return kubectl("get", "obt", *options).splitlines()[0].split()

    apply_tenant(state="Paused")
    usual = ["NAME", "TENANT", "READY", "REASON", "PENDING", "LAG", "ERR", "AGE"]
    assert columns() == usual
    assert columns("-o", "wide") == [*usual, "STATE", "REPLICAS", "RATE", "PUBLISHED", "REPORTED", "MESSAGE"]
