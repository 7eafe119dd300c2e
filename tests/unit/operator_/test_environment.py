"""From the spec to the projector's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any

import msgspec
import pytest

from outbox_operator.environment import FROM_SECRETS, FROM_SPEC, environment
from outbox_projector.settings import Settings
from tests.unit.operator_.conftest import schema

Build = Callable[..., dict[str, Any]]


def test_a_field_without_a_value_leaves_the_default_to_the_projector(tenant: Build) -> None:
    spec = tenant()
    del spec["spec"]["polling"]
    assert "OUTBOX_POLL_MIN_MILLISECONDS" not in environment(spec)


def test_a_switch_is_written_in_lower_case(tenant: Build) -> None:
    spec = tenant()
    spec["spec"]["polling"]["minMilliseconds"] = True
    assert environment(spec)["OUTBOX_POLL_MIN_MILLISECONDS"] == "true"


def test_cloudevents_are_switched_on_by_being_there(tenant: Build) -> None:
    def source(**pulsar: Any) -> str | None:
        return environment(tenant(pulsar=pulsar)).get("OUTBOX_PULSAR_CLOUDEVENTS_SOURCE")

    assert source() is None
    assert source(cloudEvents={}) == "/tenants/{tenant}"
    assert source(cloudEvents={"source": "/shops/eu"}) == "/shops/eu"


def test_each_setting_comes_from_a_field_of_its_own() -> None:
    assert len(set(FROM_SPEC.values())) == len(FROM_SPEC)


def test_the_projector_knows_every_setting_that_it_is_given(tenant: Build) -> None:
    known = {f"OUTBOX_{name.upper()}" for name in Settings.__struct_fields__}
    assert environment(tenant()).keys() | {f"OUTBOX_{name}" for name in FROM_SECRETS} <= known


def _bounds() -> Iterator[tuple[str, str, int]]:
    for name, path in FROM_SPEC.items():
        rules = reduce(lambda inner, step: inner["properties"][step], path.split("."), schema()["properties"]["spec"])
        yield from ((name, path, rules[bound]) for bound in ("minimum", "maximum") if bound in rules)


@pytest.mark.parametrize(("name", "path", "value"), list(_bounds()))
def test_the_projector_takes_what_the_api_allows(name: str, path: str, value: int) -> None:
    [field] = [field for field in msgspec.structs.fields(Settings) if field.name == name.lower()]
    assert msgspec.convert(str(value), field.type, strict=False) == value, path
