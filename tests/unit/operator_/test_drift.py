"""What counts as a difference between a child and its manifest, and what does not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from outbox_operator.drift import difference
from outbox_operator.keys import DEPLOYMENT
from outbox_operator.manifests import children

Manifest = dict[str, Any]


@pytest.fixture
def manifest(tenant: Callable[..., Manifest]) -> Manifest:
    return dict(children(tenant(), image="image:1", replicas=1))[DEPLOYMENT]


@pytest.fixture
def live(manifest: Manifest) -> Manifest:
    """The manifest as the API server returns it: with defaults, and with what other controllers add."""
    obj = copy.deepcopy(manifest)
    obj["metadata"] |= {"uid": "1", "resourceVersion": "7", "generation": 1}
    obj["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
    pod = obj["spec"]["template"]["spec"]
    pod |= {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst"}
    pod["containers"][0]["terminationMessagePath"] = "/dev/termination-log"
    pod["volumes"][0]["secret"]["defaultMode"] = 420
    obj["status"] = {"replicas": 1}
    del obj["spec"]["paused"]
    return obj


def container(live: Manifest) -> Manifest:
    return live["spec"]["template"]["spec"]["containers"][0]


def test_defaults_and_additions_of_others_are_no_difference(manifest: Manifest, live: Manifest) -> None:
    live["spec"]["template"]["metadata"]["annotations"] = {"kubectl.kubernetes.io/restartedAt": "now"}
    container(live)["env"].append({"name": "FOREIGN", "value": "1"})
    container(live)["env"].reverse()
    assert difference(manifest, live) is None


def test_empty_values_that_the_api_server_drops_are_no_difference(manifest: Manifest, live: Manifest) -> None:
    manifest["spec"]["template"]["spec"] |= {"nodeSelector": {}, "tolerations": [], "priorityClassName": ""}
    assert difference(manifest, live) is None


@pytest.mark.parametrize(
    ("given", "stored"),
    [(1, "1"), ("0.5", "500m"), (".5", "500m"), ("1000m", "1"), ("1024Mi", "1Gi"), ("0.5Ki", "512")],
)
@pytest.mark.parametrize("purpose", ["requests", "limits"])
def test_a_quantity_that_is_written_in_another_way_is_no_difference(
    manifest: Manifest, live: Manifest, purpose: str, given: str | int, stored: str
) -> None:
    """These are what an API server makes of them."""
    container(manifest)["resources"] = {purpose: {"memory": given}}
    container(live)["resources"] = {purpose: {"memory": stored}}
    assert difference(manifest, live) is None


def test_a_rollout_that_was_paused_is_a_difference(manifest: Manifest, live: Manifest) -> None:
    live["spec"]["paused"] = True
    assert difference(manifest, live) == "spec.paused was changed"


def test_missing(manifest: Manifest) -> None:
    assert difference(manifest, None) == "it does not exist"


def test_another_manifest(manifest: Manifest, live: Manifest) -> None:
    live["metadata"]["annotations"] = {}
    assert difference(manifest, live) == "it was made from another manifest"


def scaled(live: Manifest) -> None:
    live["spec"]["replicas"] = 5


def other_image(live: Manifest) -> None:
    container(live)["image"] = "evil:1"


def without_container(live: Manifest) -> None:
    live["spec"]["template"]["spec"]["containers"] = []


def without_variable(live: Manifest) -> None:
    del container(live)["env"][0]


def more_capabilities(live: Manifest) -> None:
    container(live)["securityContext"]["capabilities"]["drop"] = ["ALL", "CHOWN"]


def may_escalate(live: Manifest) -> None:
    del container(live)["securityContext"]["allowPrivilegeEscalation"]


def more_memory(live: Manifest) -> None:
    container(live)["resources"]["limits"]["memory"] = "1Gi"


def other_command(live: Manifest) -> None:
    container(live)["command"] = ["outbox-projector", "idle"]


def without_label(live: Manifest) -> None:
    del live["metadata"]["labels"]["app.kubernetes.io/name"]


def orphaned(live: Manifest) -> None:
    del live["metadata"]["ownerReferences"]


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (scaled, "spec.replicas was changed"),
        (other_image, "spec.template.spec.containers[projector].image was changed"),
        (without_container, "spec.template.spec.containers[projector] was removed"),
        (without_variable, "spec.template.spec.containers[projector].env[OUTBOX_TENANT_ID] was removed"),
        (more_capabilities, "spec.template.spec.containers[projector].securityContext.capabilities.drop was changed"),
        (
            may_escalate,
            "spec.template.spec.containers[projector].securityContext.allowPrivilegeEscalation was removed",
        ),
        (more_memory, "spec.template.spec.containers[projector].resources.limits.memory was changed"),
        (other_command, "spec.template.spec.containers[projector].command[1] was changed"),
        (without_label, "metadata.labels.app.kubernetes.io/name was removed"),
        (orphaned, "metadata.ownerReferences was removed"),
    ],
)
def test_an_edit_is_named(manifest: Manifest, live: Manifest, edit: Callable[[Manifest], None], sentence: str) -> None:
    edit(live)
    assert difference(manifest, live) == sentence
