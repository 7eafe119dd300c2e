"""Whose event it is."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from bento_outbox import MisuseError, Outbox, TenantMissing, acting_for, event_type


@event_type("tests.tenancy.Noticed")
@dataclass
class Noticed:
    aggregate_id: str = "order-1"


def _tenant(outbox: Outbox, **options: Any) -> str:
    return outbox.seal(Noticed(), **options).tenant_id


def test_the_call_comes_first_then_the_configuration_then_the_context() -> None:
    with acting_for("context"):
        assert _tenant(Outbox(tenant="configured"), tenant_id="call") == "call"
        assert _tenant(Outbox(tenant="configured")) == "configured"
        assert _tenant(Outbox(tenant=lambda: "asked")) == "asked"
        assert _tenant(Outbox(tenant=lambda: None)) == "context"
        assert _tenant(Outbox()) == "context"


def test_a_callable_is_asked_for_each_event() -> None:
    tenants = iter(["one", "two"])
    outbox = Outbox(tenant=lambda: next(tenants))

    assert [_tenant(outbox), _tenant(outbox)] == ["one", "two"]


def test_what_a_callable_raises_is_passed_on() -> None:
    def fail() -> str:
        raise LookupError("no request")

    with pytest.raises(LookupError, match="no request"):
        _tenant(Outbox(tenant=fail))


def test_a_missing_tenant_is_an_error_that_names_all_cures() -> None:
    with pytest.raises(TenantMissing, match=r"pass tenant_id, configure Outbox\(tenant=.*acting_for"):
        _tenant(Outbox())


@pytest.mark.parametrize("outbox", [Outbox(tenant=""), Outbox(tenant=lambda: "")])
def test_an_empty_tenant_is_missing_and_never_becomes_that_of_another(outbox: Outbox) -> None:
    with acting_for("context"), pytest.raises(TenantMissing):
        _tenant(outbox)


def test_an_empty_tenant_in_the_call_is_missing() -> None:
    with acting_for("context"), pytest.raises(TenantMissing):
        _tenant(Outbox(tenant="configured"), tenant_id="")


def test_a_tenant_is_text() -> None:
    with pytest.raises(MisuseError, match="the tenant is 7: it must be text"):
        _tenant(Outbox(tenant=lambda: 7))  # type: ignore[arg-type, return-value] # the misuse


def test_the_tenant_of_the_context_ends_with_the_block_also_after_an_error() -> None:
    def fail() -> None:
        with acting_for("inner"):
            assert _tenant(Outbox()) == "inner"
            raise ZeroDivisionError

    with acting_for("outer"):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert _tenant(Outbox()) == "outer"
    with pytest.raises(TenantMissing):
        _tenant(Outbox())


async def test_tasks_inherit_the_tenant_and_do_not_share_it() -> None:
    both_inside = asyncio.Barrier(2)

    async def tenant_within(name: str) -> str:
        with acting_for(name):
            await both_inside.wait()
            return _tenant(Outbox())

    async def inherited() -> str:
        return _tenant(Outbox())

    with acting_for("parent"):
        tenants = await asyncio.gather(tenant_within("one"), tenant_within("two"), inherited())
        in_thread = await asyncio.to_thread(_tenant, Outbox())

    assert (tenants, in_thread) == (["one", "two", "parent"], "parent")
