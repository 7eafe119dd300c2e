"""The operator, installed as a person would, and a namespace for each test.

The namespaces enforce the restricted Pod Security profile, so every pod that runs here passes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sandbox import helm
from tests.conftest import unique
from tests.e2e.kubectl import Kubectl, run
from tests.e2e.tenants import Tenant, outbox_tenant, secret

OPERATOR_NAMESPACE = "outbox-system"


@pytest.fixture(scope="session", autouse=True)
def operator() -> Kubectl:
    """helm install with default values: the operator under test, for the whole session."""
    if not os.environ.get("KUBECONFIG"):
        pytest.fail("KUBECONFIG is not set, but this test needs a cluster: run `make test-e2e`", pytrace=False)
    helm.install("outbox", "charts/outbox-operator", namespace=OPERATOR_NAMESPACE)
    return Kubectl(OPERATOR_NAMESPACE)


@pytest.fixture
def new_namespace() -> Iterator[Callable[[], Kubectl]]:
    """Makes namespaces of the test's own; each time kubectl in another one."""
    made: list[Kubectl] = []

    def make() -> Kubectl:
        name = unique("e2e")
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        made.append(Kubectl(name))
        made[-1].apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        return made[-1]

    yield make
    for kubectl in made:
        kubectl("delete", "namespace", kubectl.namespace, "--wait=false", "--ignore-not-found")


@pytest.fixture
def kubectl(new_namespace: Callable[[], Kubectl]) -> Kubectl:
    """kubectl in a namespace of the test's own."""
    return new_namespace()


Configure = Callable[..., None]


@pytest.fixture
def configure(operator: Kubectl) -> Iterator[Configure]:
    """Sets variables of the operator, without their prefix, and waits for its new pods; without any, puts them back."""
    deployment = operator.get("deployment", "outbox-operator")
    before = {
        e["name"]: e["value"] for e in deployment["spec"]["template"]["spec"]["containers"][0]["env"] if "value" in e
    }

    def set_variables(**variables: str) -> None:
        values = before | {f"OUTBOX_OPERATOR_{name.upper()}": value for name, value in variables.items()}
        operator("set", "env", "deployment/outbox-operator", *(f"{name}={value}" for name, value in values.items()))
        operator("rollout", "status", "deployment/outbox-operator", "--timeout=90s")

    yield set_variables
    set_variables()


AnotherImage = Callable[[str], str]


@pytest.fixture
def another_image() -> Iterator[AnotherImage]:
    """Gives the image of the operator or of the projector another name, which it returns, beside its own."""
    ctr = ("ctr", "--namespace=k8s.io", "images")
    made: list[str] = []

    def make(target: str) -> str:
        known = next(name for name in run(*ctr, "list", "--quiet").split() if f"/{target}:" in name)
        made.append(f"localhost/{unique(target)}:1")
        run(*ctr, "tag", known, made[-1])
        return made[-1]

    yield make
    for name in made:
        run(*ctr, "remove", name)


ApplyTenant = Callable[..., Tenant]


@pytest.fixture
def apply_tenant(kubectl: Kubectl, database_url: str, pulsar_url: str, session_namespace: str) -> ApplyTenant:
    """Applies a tenant with a Secret, a topic and an id of its own; keywords replace parts of its spec."""

    def apply(*, url: str | None = database_url, service_url: str = pulsar_url, topic: str = "", **spec: Any) -> Tenant:
        """url: what the Secret holds; None: there is no Secret."""
        name = unique("t")
        topic = topic or f"persistent://{session_namespace}/{name}"
        if url is not None:
            kubectl.apply(secret(name, url))
        kubectl.apply(
            outbox_tenant(
                name,
                tenantId=name,
                database={"urlSecretRef": {"name": name}},
                pulsar={"serviceUrl": service_url, "topic": topic},
                **{"polling": {"maxMilliseconds": 200}, **spec},
            )
        )
        return Tenant(kubectl, name, topic)

    return apply
