"""The alerts in docs/monitoring.md are about metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from outbox_projector.metrics import Metrics

PAGE = (Path(__file__).parents[3] / "docs" / "monitoring.md").read_text()
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.fixture
def known() -> set[str]:
    return set(re.findall(r"^(outbox_\w+)\{", Metrics("acme").exposition().decode(), re.MULTILINE))


def test_every_metric_of_an_alert_exists(known: set[str]) -> None:
    [rules] = [block for block in BLOCKS if block["kind"] == "PrometheusRule"]
    asked = {
        name
        for group in rules["spec"]["groups"]
        for rule in group["rules"]
        for name in re.findall(r"outbox_\w+", rule["expr"])
    }
    assert len(asked) >= 6
    assert asked <= known
