"""What each account may do, as the API server tells it, against this list. Who needs another right writes it here."""

from __future__ import annotations

import base64
import json
import re

import pytest

from tests.e2e.conftest import OPERATOR_NAMESPACE, ApplyTenant
from tests.e2e.kubectl import Kubectl, run
from tests.e2e.leader import replicas

Right = tuple[str, str, str]
"""Resource, names (empty: all of them), verbs."""

OPERATOR: set[Right] = {
    ("outboxtenants.outbox.bento.dev", "", "get list watch"),
    ("outboxtenants.outbox.bento.dev/status", "", "get patch"),
    ("serviceaccounts", "", "create get list patch watch"),
    ("roles.rbac.authorization.k8s.io", "", "create get list patch watch"),
    ("rolebindings.rbac.authorization.k8s.io", "", "create get list patch watch"),
    ("deployments.apps", "", "create get list patch watch"),
    ("poddisruptionbudgets.policy", "", "create get list patch watch"),
    ("events", "", "create patch"),
}


def lease(name: str) -> Right:
    return "leases.coordination.k8s.io", name, "create get patch"


def rights(kubectl: Kubectl, account: str, *, namespace: str) -> set[Right]:
    """What a service account may do in a namespace, beyond what every account may."""
    return listed(kubectl, account, namespace) - listed(kubectl, "default:nobody", namespace)


def listed(kubectl: Kubectl, account: str, namespace: str) -> set[Right]:
    text = kubectl("auth", "can-i", "--list", "--no-headers", f"--as=system:serviceaccount:{account}", "-n", namespace)
    lines = (re.fullmatch(r"(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]\s*", line) for line in text.splitlines())
    return {(m[1] or m[2], m[3], " ".join(sorted(m[4].split()))) for m in lines if m}


def test_the_operator(kubectl: Kubectl) -> None:
    account = f"{OPERATOR_NAMESPACE}:outbox-operator"
    assert rights(kubectl, account, namespace=kubectl.namespace) == OPERATOR
    assert rights(kubectl, account, namespace=OPERATOR_NAMESPACE) == OPERATOR | {lease("outbox-operator")}


def test_a_projector(kubectl: Kubectl, apply_tenant: ApplyTenant) -> None:
    tenant = apply_tenant(state="Paused")
    tenant.is_not_ready("Paused")
    account = f"{kubectl.namespace}:{tenant.name}-projector"
    own: set[Right] = {("outboxtenants.outbox.bento.dev/status", tenant.name, "get patch")}
    assert rights(kubectl, account, namespace=kubectl.namespace) == own
    assert rights(kubectl, account, namespace="default") == set()


def test_tokens_are_short_lived(kubectl: Kubectl, operator: Kubectl, apply_tenant: ApplyTenant) -> None:
    """Good for an hour, by what the token itself says; no Secret holds one."""
    tenant = apply_tenant()
    tenant.is_ready()
    pods = [(kubectl, pod["metadata"]["name"]) for pod in tenant.pods()]
    pods += [(operator, name) for name in replicas(operator)]
    for namespace, name in pods:
        token = namespace("exec", name, "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token")
        assert seconds_good_for(token) == 3600
    for namespace in (kubectl, operator):
        assert all(s["type"] != "kubernetes.io/service-account-token" for s in namespace.items("secrets"))


def seconds_good_for(token: str) -> int:
    """A JSON Web Token, from its issue to its end."""
    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    seconds: int = claims["exp"] - claims["iat"]
    return seconds


@pytest.mark.parametrize("served", ["own", "listed"])
def test_an_operator_for_some_namespaces_has_no_rights_in_others(kubectl: Kubectl, served: str) -> None:
    values = "watchOwnNamespace=true" if served == "own" else f"watchNamespaces={{{kubectl.namespace}}}"
    release = ("own", "--namespace", kubectl.namespace)
    run("helm", "install", *release, "charts/outbox-operator", "--set", f"{values},replicas=0,crd.install=false")
    try:
        account = f"{kubectl.namespace}:own-operator"
        assert rights(kubectl, account, namespace=kubectl.namespace) == OPERATOR | {lease("own-operator")}
        assert rights(kubectl, account, namespace="default") == set()
        assert "ClusterRole" not in run("helm", "get", "manifest", *release)
    finally:
        run("helm", "uninstall", *release)
