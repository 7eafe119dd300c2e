"""What the spec says of pods, on the real API server, in a namespace that enforces the restricted profile."""

from __future__ import annotations

import base64
import json

from tests.e2e.conftest import ApplyTenant
from tests.e2e.kubectl import Kubectl
from tests.e2e.leader import said_of

CHILDREN = ("ServiceAccount", "Role", "RoleBinding", "Deployment", "PodDisruptionBudget")


def registry_secret(name: str) -> dict[str, object]:
    config = base64.b64encode(json.dumps({"auths": {}}).encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": name},
        "data": {".dockerconfigjson": config},
    }


def test_all_of_them_together(apply_tenant: ApplyTenant, kubectl: Kubectl, operator: Kubectl) -> None:
    kubectl.apply(registry_secret("registry"))
    here = {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}
    tenant = apply_tenant(
        replicas=2,
        resources={"requests": {"cpu": "1m", "memory": "32Mi"}},
        pod={
            "imagePullSecrets": [{"name": "registry"}],
            "labels": {"team": "checkout"},
            "annotations": {"example.com/mesh": "off"},
            "env": [{"name": "EXAMPLE", "value": "$(OUTBOX_TENANT_ID)"}],
            "serviceAccountAnnotations": {"example.com/role": "reader"},
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
            "priorityClassName": "system-cluster-critical",
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [here]}},
                "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "weight": 1,
                            "podAffinityTerm": {
                                "topologyKey": "kubernetes.io/hostname",
                                "labelSelector": {"matchLabels": {"team": "search"}},
                            },
                        }
                    ]
                },
            },
        },
    )
    tenant.shows("{.status.readyReplicas}", 2)
    tenant.shows('{.status.conditions[?(@.type=="Progressing")].reason}', "Stable")
    for pod in tenant.pods():
        assert pod["metadata"]["labels"]["team"] == "checkout"
        assert pod["metadata"]["annotations"]["example.com/mesh"] == "off"
        assert pod["spec"]["priorityClassName"] == "system-cluster-critical"
    child = f"{tenant.name}-projector"
    assert kubectl.get("serviceaccount", child)["metadata"]["annotations"]["example.com/role"] == "reader"
    kubectl.wait(f"pdb/{child}", "jsonpath={.status.disruptionsAllowed}=1")
    # Each is applied once: no default of the API server is a difference, to be applied again or to be accepted. (The
    # look that said Stable had compared all of them.)
    said = [line for line in said_of(operator, tenant) if line["event"] != "status"]
    applied = [(line["event"], line.get("kind"), line.get("because")) for line in said]
    assert applied == [("applying", kind, "it does not exist") for kind in CHILDREN]
