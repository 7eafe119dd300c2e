"""What does not fit is refused by the API server, with a message that names the field and says what would be right."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from tests.e2e.kubectl import Kubectl, Refused
from tests.e2e.tenants import outbox_tenant

Manifest = dict[str, Any]

VALID: Manifest = {
    "tenantId": "acme",
    "database": {"urlSecretRef": {"name": "acme-db"}},
    "pulsar": {"serviceUrl": "pulsar://broker:6650"},
    "state": "Paused",
}


def tenant(name: str = "acme", /, **spec: Any) -> Manifest:
    return outbox_tenant(name, **{**copy.deepcopy(VALID), **spec})


def pulsar(**fields: Any) -> Manifest:
    return {"pulsar": {**VALID["pulsar"], **fields}}


def pod(**fields: Any) -> Manifest:
    return {"pod": fields}


def node_affinity(**expression: Any) -> Manifest:
    terms = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", **expression}]}]}
    return pod(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}})


def pod_affinity(kind: str = "podAffinity", /, **selector: Any) -> Manifest:
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}
    return pod(affinity={kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}})


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        pytest.param({"foo": 1}, "spec.foo", "unknown field", id="unknown field"),
        pytest.param({"polling": {"min": 1}}, "spec.polling.min", "unknown field", id="unknown field inside"),
        pytest.param({"tenantId": ""}, "spec.tenantId", "at least 1 chars", id="empty tenantId"),
        pytest.param({"tenantId": "a b"}, "spec.tenantId", "should match", id="tenantId with a space"),
        pytest.param({"tenantId": "a" * 254}, "spec.tenantId", "may not be more than 253", id="tenantId too long"),
        pytest.param(
            {"polling": {"minMilliseconds": 500, "maxMilliseconds": 100}},
            "spec.polling",
            "polling.minMilliseconds must not be above polling.maxMilliseconds",
            id="minimum above maximum",
        ),
        pytest.param(
            {"polling": {"minMilliseconds": 5000}},
            "spec.polling",
            "polling.minMilliseconds must not be above polling.maxMilliseconds",
            id="minimum above the default maximum",
        ),
        pytest.param(
            {"delivery": {"backoff": {"initialMilliseconds": 5000, "maxSeconds": 1}}},
            "spec.delivery.backoff",
            "backoff.initialMilliseconds must not be above backoff.maxSeconds",
            id="first wait above the longest",
        ),
        pytest.param(
            pulsar(authentication={}),
            "spec.pulsar.authentication",
            "pulsar.authentication must have exactly one of token, tls and oauth2",
            id="no authentication in authentication",
        ),
        pytest.param(
            pulsar(
                serviceUrl="pulsar+ssl://broker:6651",
                authentication={"token": {"secretRef": {"name": "a"}}, "tls": {"secretRef": {"name": "a"}}},
            ),
            "spec.pulsar.authentication",
            "pulsar.authentication must have exactly one of token, tls and oauth2",
            id="two ways of authentication",
        ),
        pytest.param(
            pulsar(authentication={"token": {}}),
            "spec.pulsar.authentication.token.secretRef",
            "Required value",
            id="a token without a Secret",
        ),
        pytest.param(
            pulsar(authentication={"tls": {"secretRef": {"name": "a"}}}),
            "spec.pulsar",
            "pulsar.authentication.tls needs TLS; pulsar.serviceUrl must be a pulsar+ssl:// URL",
            id="a client certificate without TLS",
        ),
        pytest.param(
            pulsar(tls={}),
            "spec.pulsar",
            "pulsar.tls needs TLS; pulsar.serviceUrl must be a pulsar+ssl:// URL",
            id="trust without TLS",
        ),
        pytest.param(
            pulsar(cloudEvents={"source": "/shops/{type}"}),
            "spec.pulsar.cloudEvents.source",
            "cloudEvents.source must be a URI reference",
            id="CloudEvents source with an unknown placeholder",
        ),
        pytest.param(pulsar(batching="ByKey"), "spec.pulsar.batching", "Unsupported value", id="an unknown batching"),
        pytest.param(
            pulsar(serviceUrl="http://broker:8080"),
            "spec.pulsar.serviceUrl",
            "must be a pulsar:// or pulsar+ssl:// URL",
            id="not a pulsar:// URL",
        ),
        pytest.param(
            pulsar(topic="orders"), "spec.pulsar.topic", "must be the full name of a persistent topic", id="short topic"
        ),
        pytest.param(
            pulsar(topic="persistent://a/b/{tenent}"),
            "spec.pulsar.topic",
            "unknown placeholder; {tenant} and {type} are known",
            id="unknown placeholder",
        ),
        pytest.param({"state": "Stopped"}, "spec.state", '"Running", "Paused"', id="unknown state"),
        pytest.param({"replicas": -1}, "spec.replicas", "greater than or equal to 0", id="negative replicas"),
        pytest.param({"database": {}}, "spec.database.urlSecretRef", "Required value", id="no Secret"),
        pytest.param(
            {"database": {**VALID["database"], "tls": {}}},
            "spec.database.tls.trustedCertificates",
            "Required value",
            id="TLS to the database without authorities",
        ),
        pytest.param(
            {"pod": {"env": [{"name": "OUTBOX_TENANT_ID", "value": "other"}]}},
            "spec.pod.env[0]",
            "names must not begin with OUTBOX_",
            id="a variable of the projector's own",
        ),
        pytest.param(
            {"pod": {"labels": {"outbox.bento.dev/outboxtenant": "other"}}},
            "spec.pod.labels",
            "must not begin with outbox.bento.dev/",
            id="a label of the operator's",
        ),
        pytest.param(
            {"delivery": {"ordering": "None", "onError": "HoldAggregate"}},
            "spec.delivery",
            "delivery.onError HoldAggregate keeps an order, so delivery.ordering must be Aggregate",
            id="held back without an order",
        ),
        pytest.param(
            pod(labels={"app.kubernetes.io/name": "other"}),
            "spec.pod.labels",
            "must not begin with outbox.bento.dev/ or app.kubernetes.io/",
            id="a common label, which is the operator's",
        ),
        pytest.param(
            pod(annotations={"outbox.bento.dev/mine": "x"}),
            "spec.pod.annotations",
            "pod.annotations must not begin with outbox.bento.dev/",
            id="an annotation of the operator's",
        ),
        pytest.param(
            pod(annotations={"container.apparmor.security.beta.kubernetes.io/projector": "unconfined"}),
            "spec.pod.annotations",
            "pod.annotations must not begin with container.apparmor.security.beta.kubernetes.io/",
            id="an annotation that takes AppArmor away",
        ),
        pytest.param(
            pod(serviceAccountAnnotations={"outbox.bento.dev/mine": "x"}),
            "spec.pod.serviceAccountAnnotations",
            "pod.serviceAccountAnnotations must not begin with outbox.bento.dev/",
            id="an annotation of a ServiceAccount that is the operator's",
        ),
        *(
            pytest.param(
                pod(labels={name: "x"}),
                "spec.pod.labels",
                "pod.labels must have names such as team or example.com/team",
                id=f"a label named {name[:20]}",
            )
            for name in ("a team", "Example.com/team", "a..b/team", "a/b/c", "-team", "t" * 64)
        ),
        *(
            pytest.param(
                pod(**{field: {"a team": "x"}}),
                f"spec.pod.{field}",
                f"pod.{field} must have names such as team or example.com/team",
                id=f"a name in {field}",
            )
            for field in ("annotations", "serviceAccountAnnotations", "nodeSelector")
        ),
        pytest.param(pod(labels={"team": "a b"}), "spec.pod.labels.team", "should match", id="value of a label"),
        pytest.param(pod(labels={"team": "-"}), "spec.pod.labels.team", "should match", id="a label that is a dash"),
        pytest.param(
            pod(nodeSelector={"disk": "a b"}),
            "spec.pod.nodeSelector.disk",
            "should match",
            id="value of a node's label",
        ),
        pytest.param(
            pod(imagePullSecrets=[{"name": "My_Registry"}]),
            "spec.pod.imagePullSecrets[0].name",
            "should match",
            id="name of a pull secret",
        ),
        pytest.param(
            pod(priorityClassName="Very High"), "spec.pod.priorityClassName", "should match", id="name of a priority"
        ),
        pytest.param(
            pod(topologySpread=[{"topologyKey": "a zone"}]),
            "spec.pod.topologySpread[0].topologyKey",
            "should match",
            id="name of a topology",
        ),
        *(
            pytest.param(
                pod_affinity(kind, matchExpressions=[{"key": "size", "operator": "Gt", "values": ["1"]}]),
                f"spec.pod.affinity.{kind}.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector"
                ".matchExpressions[0].operator",
                'supported values: "In", "NotIn", "Exists", "DoesNotExist"',
                id=f"{kind} greater than",
            )
            for kind in ("podAffinity", "podAntiAffinity")
        ),
        pytest.param(
            pod_affinity(matchExpressions=[{"key": "team", "operator": "In"}]),
            "labelSelector.matchExpressions[0]",
            "must have values, but none with the operators Exists and DoesNotExist",
            id="pods by no value",
        ),
        pytest.param(
            pod_affinity(matchExpressions=[{"key": "team", "operator": "In", "values": ["a b"]}]),
            "labelSelector.matchExpressions[0].values[0]",
            "should match",
            id="pods by what is no value",
        ),
        pytest.param(
            pod_affinity(matchLabels={"a team": "x"}),
            "labelSelector.matchLabels",
            "matchLabels must have names such as team or example.com/team",
            id="pods by what is no name",
        ),
        pytest.param(
            node_affinity(operator="In", values=[]),
            "nodeSelectorTerms[0].matchExpressions[0]",
            "must have values, but none with the operators Exists and DoesNotExist",
            id="nodes by no value",
        ),
        pytest.param(
            node_affinity(operator="Exists", values=["x"]),
            "nodeSelectorTerms[0].matchExpressions[0]",
            "must have values, but none with the operators Exists and DoesNotExist",
            id="nodes by a value that is not looked at",
        ),
        pytest.param(
            node_affinity(operator="Gt", values=["4", "5"]),
            "nodeSelectorTerms[0].matchExpressions[0]",
            "with the operator Gt or Lt must have one value, a whole number",
            id="nodes above two values",
        ),
        pytest.param(
            node_affinity(operator="Lt", values=["many"]),
            "nodeSelectorTerms[0].matchExpressions[0]",
            "with the operator Gt or Lt must have one value, a whole number",
            id="nodes below no number",
        ),
        pytest.param(
            pod(tolerations=[{"value": "x"}]),
            "spec.pod.tolerations[0]",
            "pod.tolerations without a key must have the operator Exists",
            id="a toleration without a key",
        ),
        pytest.param(
            pod(tolerations=[{"key": "spot", "operator": "Exists", "value": "x"}]),
            "spec.pod.tolerations[0]",
            "pod.tolerations with the operator Exists must not have a value",
            id="a toleration with a value that is not looked at",
        ),
        pytest.param(
            pod(tolerations=[{"key": "spot", "value": "a b"}]),
            "spec.pod.tolerations[0].value",
            "should match",
            id="a toleration of what is no value",
        ),
        pytest.param(
            pod(tolerations=[{"key": "spot", "effect": "NoSchedule", "tolerationSeconds": 1}]),
            "spec.pod.tolerations[0]",
            "pod.tolerations with tolerationSeconds must have the effect NoExecute",
            id="a toleration with a time that does not count",
        ),
        *(
            pytest.param(
                {"resources": {"requests": {name: asked}, "limits": {name: limit}}},
                "spec.resources",
                f"resources.requests.{name} must not be above resources.limits.{name}",
                id=f"{name} above its limit",
            )
            for name, asked, limit in [("cpu", 2, "1500m"), ("memory", "1Gi", "1G"), ("ephemeral-storage", "2Ki", 2047)]
        ),
        pytest.param({"pod": {"hostNetwork": True}}, "spec.pod.hostNetwork", "unknown field", id="host network"),
        pytest.param(
            {"resources": {"limits": {"memory": "lots"}}},
            "spec.resources.limits.memory",
            "should match",
            id="no quantity",
        ),
    ],
)
def test_a_wrong_spec_is_refused(kubectl: Kubectl, spec: Manifest, field: str, says: str) -> None:
    with pytest.raises(Refused) as refusal:
        kubectl.apply(tenant(**spec))
    assert field in str(refusal.value)
    assert says in str(refusal.value)
    assert kubectl.items("outboxtenants") == []


def test_a_name_that_does_not_fit_into_a_label_is_refused(kubectl: Kubectl) -> None:
    with pytest.raises(Refused, match=r"metadata\.name must have at most 52 characters"):
        kubectl.apply(tenant("a" * 53))


def test_the_tenant_id_cannot_be_changed(kubectl: Kubectl) -> None:
    kubectl.apply(tenant())
    with pytest.raises(Refused, match=r"spec\.tenantId: .*tenantId is immutable"):
        kubectl.apply(tenant(tenantId="other"))
    assert kubectl.get("obt", "acme")["spec"]["tenantId"] == "acme"


def test_what_is_left_out_is_filled_in(kubectl: Kubectl) -> None:
    kubectl.apply(tenant(delivery={"batchSize": 7}))
    spec = kubectl.get("obt", "acme")["spec"]
    assert spec["database"] == {
        "urlSecretRef": {"name": "acme-db", "key": "url"},
        "schema": "public",
        "table": "outbox",
    }
    assert spec["pulsar"]["topic"] == "persistent://public/default/outbox-{tenant}"
    assert spec["delivery"]["batchSize"] == 7
    assert spec["delivery"]["maxRetries"] == 5
    assert spec["polling"] == {"minMilliseconds": 20, "maxMilliseconds": 1000, "quietMilliseconds": 20000}
    assert spec["retention"] == {"sentSeconds": 604800}
    assert spec["reporting"] == {"intervalSeconds": 180}
    assert spec["replicas"] == 1


def test_what_a_deployment_may_say_of_pods_is_taken(kubectl: Kubectl) -> None:
    expressions = [
        {"key": "example.com/cores", "operator": "Gt", "values": ["4"]},
        {"key": "spot", "operator": "DoesNotExist"},
    ]
    others = {
        "matchLabels": {"a": ""},
        "matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["", "X.y_z-1"]}],
    }
    term = {"topologyKey": "topology.kubernetes.io/zone", "labelSelector": others}
    settings = pod(
        imagePullSecrets=[{"name": "registry.example.com"}],
        labels={"example.com/team": "", "n" * 63: "A.b_c-9", f"{'p' * 253}/x": "v" * 63},
        annotations={"sidecar.example.com/inject": "as it likes, {}"},
        serviceAccountAnnotations={"example.com/Role_1": "arn:x"},
        priorityClassName="very-high",
        nodeSelector={"kubernetes.io/os": "linux"},
        tolerations=[
            {"operator": "Exists"},
            {"key": "example.com/spot", "effect": "NoExecute", "tolerationSeconds": 60},
            {"key": "spot", "operator": "Equal", "value": "yes"},
        ],
        affinity={
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": expressions}]
                }
            },
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]
            },
        },
    )
    resources = {"requests": {"cpu": "1000m", "memory": "1Gi"}, "limits": {"cpu": 1, "memory": "1024Mi"}}
    kubectl.apply(tenant(resources=resources, **settings))
    kubectl.wait("deployment/acme-projector", "create")


def test_an_unknown_field_is_dropped_where_nobody_asks_for_more(kubectl: Kubectl) -> None:
    kubectl("apply", "--validate=warn", "-f", "-", stdin=yaml.safe_dump(tenant(foo=1)))
    assert "foo" not in kubectl.get("obt", "acme")["spec"]


def test_explain_is_a_manual(kubectl: Kubectl) -> None:
    text = " ".join(kubectl("explain", "obt.spec.delivery.maxRetries").split())
    assert "Refusals by the broker after which an event is given up" in text
    assert "Default 5; 1 to 100." in text
