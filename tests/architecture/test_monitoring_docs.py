"""docs/monitoring.md speaks of metrics that there are, and of all of the operator's."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import yaml

from outbox_operator.cache import Cache
from outbox_operator.keys import OUTBOX_TENANT, Key
from outbox_operator.metrics import Metrics as OperatorMetrics
from outbox_operator.rollouts import Rollouts
from outbox_operator.testing import ManualClock
from outbox_operator.workqueue import WorkQueue
from outbox_projector.metrics import Metrics as ProjectorMetrics
from tests.unit.operator_.conftest import build_tenant

PAGE = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
BLOCKS = [doc for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) for doc in yaml.safe_load_all(text)]


async def look(key: Key) -> None: ...


def names(exposition: bytes) -> set[str]:
    return set(re.findall(r"^(outbox_\w+)[{ ]", exposition.decode(), re.MULTILINE))


def operators() -> set[str]:
    cache = Cache()
    said = [{"type": kind, "status": "True", "reason": "Any"} for kind in ("Ready", "Degraded")]
    cache.put(OUTBOX_TENANT, build_tenant(status={"conditions": said}))
    metrics = OperatorMetrics(
        cache=cache,
        queue=WorkQueue[Key](look, workers=1, clock=ManualClock(), random=lambda: 0.5),
        rollouts=Rollouts(1, wake=lambda _: None),
        writes=Counter(["Deployment"]),
        acts=lambda: True,
    )
    return names(metrics.exposition())


def test_every_metric_of_an_alert_exists() -> None:
    [rules] = [block for block in BLOCKS if block["kind"] == "PrometheusRule"]
    asked = {
        name
        for group in rules["spec"]["groups"]
        for rule in group["rules"]
        for name in re.findall(r"outbox_\w+", rule["expr"])
    }
    assert len(asked) >= 4
    assert asked <= operators() | names(ProjectorMetrics("acme").exposition())


def test_every_metric_of_the_operator_is_explained() -> None:
    explained = set(re.findall(r"^\| `(outbox_\w+)", PAGE, re.MULTILINE))
    assert explained == operators()
