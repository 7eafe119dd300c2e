"""What is built for an OutboxTenant, as data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bento_outbox.pulsar_client import PulsarConnection
from outbox_operator.keys import HASH_ANNOTATION, Key, controller_of
from outbox_operator.manifests import children, selector, wanted_replicas
from outbox_operator.pod import PASSED_ON
from outbox_projector.kubernetes_status import SERVICE_ACCOUNT
from outbox_projector.settings import load_settings
from tests.unit.operator_.conftest import schema

Manifest = dict[str, Any]
Build = Callable[..., Manifest]

IMAGE = "registry/projector:1"


def built(tenant: Manifest, image: str = IMAGE) -> dict[str, Manifest]:
    replicas = wanted_replicas(tenant)
    return {kind.kind: manifest for kind, manifest in children(tenant, image=image, replicas=replicas)}


def pod(tenant: Manifest) -> Manifest:
    return built(tenant)["Deployment"]["spec"]["template"]["spec"]


def environment(tenant: Manifest) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in pod(tenant)["containers"][0]["env"]}


def test_rights_come_before_the_pods_that_need_them(tenant: Build) -> None:
    assert list(built(tenant())) == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "Deployment",
    ]


def test_every_child_is_named_labelled_and_owned_alike(tenant: Build) -> None:
    for manifest in built(tenant()).values():
        metadata = manifest["metadata"]
        assert (metadata["namespace"], metadata["name"]) == ("shop", "acme-projector")
        assert metadata["labels"]["outbox.bento.dev/outboxtenant"] == "acme"
        assert controller_of(manifest) == {
            "apiVersion": "outbox.bento.dev/v1alpha1",
            "kind": "OutboxTenant",
            "name": "acme",
            "uid": "4f0c",
            "controller": True,
            "blockOwnerDeletion": False,
        }


def test_the_role_allows_to_get_and_patch_the_own_status_and_nothing_else(tenant: Build) -> None:
    assert built(tenant())["Role"]["rules"] == [
        {
            "apiGroups": ["outbox.bento.dev"],
            "resources": ["outboxtenants/status"],
            "resourceNames": ["acme"],
            "verbs": ["get", "patch"],
        }
    ]


def test_a_request_changes_no_child_so_no_pod_restarts(tenant: Build) -> None:
    asked = {"requestId": "one", "filter": {"type": "orders.Placed"}}
    assert built(tenant(requeue=asked, discard=asked)) == built(tenant())


def test_the_binding_connects_the_role_and_the_account_of_the_pod(tenant: Build) -> None:
    objects = built(tenant())
    binding = objects["RoleBinding"]
    assert binding["roleRef"]["name"] == objects["Role"]["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "acme-projector", "namespace": "shop"}]
    assert pod(tenant())["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    assert objects["ServiceAccount"]["automountServiceAccountToken"] is False


def test_the_environment_is_the_whole_configuration(tenant: Build) -> None:
    assert environment(tenant(delivery={"backoff": {"maxSeconds": 7}}, polling={"maxMilliseconds": 300})) == {
        "OUTBOX_TENANT_ID": "acme-eu",
        "OUTBOX_DATABASE_URL_FILE": "/var/run/outbox/database/url",
        "OUTBOX_DATABASE_URL_SECRET": "acme-db/url",
        "OUTBOX_DATABASE_SCHEMA": "public",
        "OUTBOX_DATABASE_TABLE": "outbox",
        "OUTBOX_PULSAR_SERVICE_URL": "pulsar://broker:6650",
        "OUTBOX_PULSAR_TOPIC": "persistent://public/default/outbox-{tenant}",
        "OUTBOX_PULSAR_COMPRESSION": "None",
        "OUTBOX_PULSAR_BATCHING": "Default",
        "OUTBOX_LANES": "1",
        "OUTBOX_ORDERING": "Aggregate",
        "OUTBOX_ON_ERROR": "Continue",
        "OUTBOX_GUARANTEE": "AtLeastOnce",
        "OUTBOX_BATCH_SIZE": "1000",
        "OUTBOX_MAX_RETRIES": "5",
        "OUTBOX_BACKOFF_INITIAL_MILLISECONDS": "500",
        "OUTBOX_BACKOFF_MAX_SECONDS": "7",
        "OUTBOX_POLL_MIN_MILLISECONDS": "20",
        "OUTBOX_POLL_MAX_MILLISECONDS": "300",
        "OUTBOX_POLL_QUIET_MILLISECONDS": "20000",
        "OUTBOX_RETENTION_SENT_SECONDS": "604800",
        "OUTBOX_STATUS_INTERVAL_SECONDS": "180",
        "OUTBOX_RESOURCE_NAME": "acme",
        "OUTBOX_RESOURCE_NAMESPACE": "shop",
        "OUTBOX_HTTP_PORT": "8080",
        "OUTBOX_SHUTDOWN_GRACE_SECONDS": "20",
    }


def test_the_secret_is_mounted_and_may_be_missing(tenant: Build) -> None:
    spec = tenant(database={"urlSecretRef": {"name": "db", "key": "DATABASE_URL"}})
    assert pod(spec)["volumes"][0] == {
        "name": "database",
        "secret": {
            "secretName": "db",
            "optional": True,
            "items": [{"key": "DATABASE_URL", "path": "DATABASE_URL"}],
        },
    }
    assert environment(spec)["OUTBOX_DATABASE_URL_FILE"] == "/var/run/outbox/database/DATABASE_URL"


def test_secrets_for_pulsar_are_mounted_each_key_under_the_name_of_its_secret(tenant: Build) -> None:
    """One Secret may serve twice, as one of cert-manager does."""
    spec = tenant(
        pulsar={
            "serviceUrl": "pulsar+ssl://broker:6651",
            "authentication": {"tls": {"secretRef": {"name": "acme.client"}}},
            "tls": {"trustedCertificates": {"secretRef": {"name": "acme.client"}}},
        }
    )

    assert pod(spec)["volumes"][2:] == [
        {
            "name": "pulsar",
            "projected": {
                "sources": [
                    {
                        "secret": {
                            "name": "acme.client",
                            "optional": True,
                            "items": [
                                {"key": key, "path": f"acme.client/{key}"} for key in ("ca.crt", "tls.crt", "tls.key")
                            ],
                        }
                    }
                ]
            },
        }
    ]
    assert pod(spec)["containers"][0]["volumeMounts"][2:] == [
        {"name": "pulsar", "mountPath": "/var/run/outbox/pulsar", "readOnly": True}
    ]


@pytest.mark.parametrize("secret", ["db-ca", "acme-db"])
def test_the_authorities_of_the_database_are_mounted_be_their_secret_that_of_the_url_or_not(
    tenant: Build, secret: str
) -> None:
    spec = tenant(database={"tls": {"trustedCertificates": {"secretRef": {"name": secret}}}})

    assert pod(spec)["volumes"][2:] == [
        {
            "name": "database-tls",
            "projected": {
                "sources": [
                    {
                        "secret": {
                            "name": secret,
                            "optional": True,
                            "items": [{"key": "ca.crt", "path": f"{secret}/ca.crt"}],
                        }
                    }
                ]
            },
        }
    ]
    assert pod(spec)["containers"][0]["volumeMounts"][2:] == [
        {"name": "database-tls", "mountPath": "/var/run/outbox/database-tls", "readOnly": True}
    ]
    assert environment(spec) == environment(tenant()) | {
        "OUTBOX_DATABASE_TRUSTED_CERTIFICATES_FILE": f"/var/run/outbox/database-tls/{secret}/ca.crt"
    }


def test_authorities_of_the_database_and_of_the_broker_do_not_meet(tenant: Build) -> None:
    def trust(key: str) -> Manifest:
        return {"tls": {"trustedCertificates": {"secretRef": {"name": "ca", "key": key}}}}

    spec = tenant(database=trust("db.pem"), pulsar={"serviceUrl": "pulsar+ssl://broker:6651"} | trust("broker.pem"))

    mounted = {
        volume["name"]: [item["path"] for item in volume["projected"]["sources"][0]["secret"]["items"]]
        for volume in pod(spec)["volumes"][2:]
    }
    assert mounted == {"database-tls": ["ca/db.pem"], "pulsar": ["ca/broker.pem"]}


def test_without_files_from_secrets_there_are_no_volumes_for_them(tenant: Build) -> None:
    """Otherwise an upgrade of the operator would restart the pods of those who never asked for any."""
    assert [volume["name"] for volume in pod(tenant())["volumes"]] == ["database", "api-access"]


@pytest.mark.parametrize(
    ("pulsar", "variables"),
    [
        ({}, {}),
        (
            {"authentication": {"token": {"secretRef": {"name": "acme-pulsar"}}}},
            {"TOKEN_FILE": "/var/run/outbox/pulsar/acme-pulsar/token"},
        ),
        (
            {
                "authentication": {"tls": {"secretRef": {"name": "us"}}},
                "tls": {
                    "trustedCertificates": {"secretRef": {"name": "they", "key": "root.pem"}},
                    "allowInsecure": True,
                },
            },
            {
                "CERTIFICATE_FILE": "/var/run/outbox/pulsar/us/tls.crt",
                "PRIVATE_KEY_FILE": "/var/run/outbox/pulsar/us/tls.key",
                "TRUSTED_CERTIFICATES_FILE": "/var/run/outbox/pulsar/they/root.pem",
                "VALIDATE_HOSTNAME": "true",
                "ALLOW_INSECURE": "true",
            },
        ),
        (
            {
                "authentication": {
                    "oauth2": {
                        "issuerUrl": "https://issuer.example",
                        "audience": "urn:broker",
                        "secretRef": {"name": "acme-oauth", "key": "key.json"},
                    }
                },
            },
            {
                "OAUTH2_CREDENTIALS_FILE": "/var/run/outbox/pulsar/acme-oauth/key.json",
                "OAUTH2_ISSUER_URL": "https://issuer.example",
                "OAUTH2_AUDIENCE": "urn:broker",
            },
        ),
    ],
)
def test_credentials_for_pulsar_are_told_to_the_projector_as_files(
    tenant: Build, pulsar: Manifest, variables: dict[str, str]
) -> None:
    """Each is a setting that the projector takes, and takes together with the others."""
    secure = {"serviceUrl": "pulsar+ssl://broker:6651"}
    found = environment(tenant(pulsar=secure | pulsar))

    assert found == environment(tenant(pulsar=secure)) | {
        f"OUTBOX_PULSAR_{name}": value for name, value in variables.items()
    }
    assert {volume["name"] for volume in pod(tenant(pulsar=pulsar))["volumes"]} <= {
        "api-access",
        "database",
        "pulsar",
    }
    assert isinstance(load_settings(found).pulsar_connection(), PulsarConnection)


def test_what_looks_like_a_variable_is_not_expanded_by_the_kubelet(tenant: Build) -> None:
    spec = tenant(pulsar={"topic": "persistent://a/b/$(OUTBOX_TENANT_ID)"})
    assert environment(spec)["OUTBOX_PULSAR_TOPIC"] == "persistent://a/b/$$(OUTBOX_TENANT_ID)"


def test_tokens_end_after_an_hour_and_lie_where_clients_look_for_them(tenant: Build) -> None:
    """The one that Kubernetes mounts by itself would be good for a year."""
    spec = pod(tenant())
    [mount] = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "api-access"]
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == "api-access"]
    sources = volume["projected"]["sources"]
    [token] = [source["serviceAccountToken"] for source in sources if "serviceAccountToken" in source]
    assert spec["automountServiceAccountToken"] is False
    assert Path(mount["mountPath"]) == SERVICE_ACCOUNT
    assert token == {"path": "token", "expirationSeconds": 3600}


def test_the_pod_fits_the_restricted_profile(tenant: Build) -> None:
    spec = pod(tenant())
    container = spec["containers"][0]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} == {"secret", "projected"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_the_pod_has_more_time_to_end_than_the_projector_takes(tenant: Build) -> None:
    assert pod(tenant())["terminationGracePeriodSeconds"] > int(environment(tenant())["OUTBOX_SHUTDOWN_GRACE_SECONDS"])


@pytest.mark.parametrize(
    ("spec", "replicas"),
    [({}, 1), ({"replicas": 4}, 4), ({"replicas": 0}, 0), ({"replicas": 4, "state": "Paused"}, 0)],
)
def test_replicas(tenant: Build, spec: Manifest, replicas: int) -> None:
    assert built(tenant(**spec))["Deployment"]["spec"]["replicas"] == replicas


def test_the_image_of_the_tenant_wins(tenant: Build) -> None:
    assert pod(tenant())["containers"][0]["image"] == IMAGE
    assert pod(tenant(image="mine:2"))["containers"][0]["image"] == "mine:2"


def test_resources_that_are_given_replace_the_default(tenant: Build) -> None:
    assert pod(tenant())["containers"][0]["resources"]["limits"] == {"memory": "512Mi"}
    own = tenant(resources={"requests": {"cpu": "1"}})
    own["spec"]["resources"] = {"requests": {"cpu": "1"}}
    assert pod(own)["containers"][0]["resources"] == {"requests": {"cpu": "1"}}


def test_the_selector_of_the_scale_subresource_finds_the_pods(tenant: Build) -> None:
    template = built(tenant())["Deployment"]["spec"]["template"]["metadata"]["labels"]
    name, _, value = selector(tenant()).partition("=")
    assert template[name] == value


def test_the_hash_follows_the_content(tenant: Build) -> None:
    def digest(spec: Manifest, image: str = IMAGE) -> str:
        return built(spec, image)["Deployment"]["metadata"]["annotations"][HASH_ANNOTATION]

    assert digest(tenant()) == digest(tenant())
    assert len({digest(tenant()), digest(tenant(replicas=2)), digest(tenant(), image="other")}) == 3


POD_SETTINGS: Manifest = {
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]
            }
        }
    },
    "priorityClassName": "important",
}


@pytest.mark.parametrize("name", POD_SETTINGS)
def test_scheduling_is_passed_on_as_it_is(tenant: Build, name: str) -> None:
    assert name not in pod(tenant())
    assert pod(tenant(pod=POD_SETTINGS))[name] == POD_SETTINGS[name]


def test_pods_are_spread_over_nodes_unless_the_spec_says_otherwise(tenant: Build) -> None:
    assert pod(tenant())["topologySpreadConstraints"] == [
        {
            "topologyKey": "kubernetes.io/hostname",
            "maxSkew": 1,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"outbox.bento.dev/outboxtenant": "acme"}},
        }
    ]
    assert pod(tenant(pod={"topologySpread": []}))["topologySpreadConstraints"] == []
    zones = [{"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}]
    (constraint,) = pod(tenant(pod={"topologySpread": zones}))["topologySpreadConstraints"]
    assert (constraint["topologyKey"], constraint["maxSkew"]) == ("topology.kubernetes.io/zone", 2)


def test_labels_and_annotations_are_added_and_never_replace_ours(tenant: Build) -> None:
    own = {"labels": {"team": "a", "outbox.bento.dev/outboxtenant": "other"}, "annotations": {"mesh": "off"}}
    metadata = built(tenant(pod=own))["Deployment"]["spec"]["template"]["metadata"]
    assert metadata["labels"]["team"] == "a"
    assert metadata["labels"]["outbox.bento.dev/outboxtenant"] == "acme"
    assert metadata["annotations"] == {"mesh": "off"}


def test_more_variables_never_replace_the_projectors_own(tenant: Build) -> None:
    own = [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}, {"name": "OUTBOX_TENANT_ID", "value": "other"}]
    found = environment(tenant(pod={"env": own}))
    assert found["HTTPS_PROXY"] == "http://proxy:3128"
    assert found["OUTBOX_TENANT_ID"] == "acme-eu"


def test_annotations_of_the_service_account(tenant: Build) -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/outbox"}
    metadata = built(tenant(pod={"serviceAccountAnnotations": role}))["ServiceAccount"]["metadata"]
    assert metadata["annotations"].items() > role.items()
    assert HASH_ANNOTATION in metadata["annotations"]


@pytest.mark.parametrize(
    ("spec", "exists"),
    [({}, False), ({"replicas": 2}, True), ({"replicas": 2, "state": "Paused"}, False)],
    ids=["one pod", "two pods", "paused"],
)
def test_a_disruption_budget_from_two_pods_on(tenant: Build, spec: Manifest, exists: bool) -> None:
    budget = built(tenant(**spec)).get("PodDisruptionBudget")
    assert (budget is not None) == exists
    if budget:
        assert budget["spec"] == {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {"outbox.bento.dev/outboxtenant": "acme"}},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        }


def test_whoever_delivers_already_leaves_no_pods_for_others(tenant: Build) -> None:
    assert wanted_replicas(tenant(replicas=3), delivered_by=Key("shop", "older")) == 0


def test_nothing_in_the_spec_loosens_the_restricted_profile(tenant: Build) -> None:
    own = schema()["properties"]["spec"]["properties"]["pod"]["properties"]
    assert not {"securityContext", "hostNetwork", "volumes", "containers", "serviceAccountName"} & own.keys()
    assert set(POD_SETTINGS) == set(PASSED_ON)
