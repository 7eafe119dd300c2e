"""What does not fit is refused by the API server, with a message that names the field and says what would be right."""

from __future__ import annotations

import copy
from typing import Any

import pytest

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


def test_explain_is_a_manual(kubectl: Kubectl) -> None:
    text = " ".join(kubectl("explain", "obt.spec.delivery.maxRetries").split())
    assert "Refusals by the broker after which an event is given up" in text
