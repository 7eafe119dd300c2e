"""What applications may rely on. A name added here is a promise; a name removed breaks someone."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files

import pytest

import bento_outbox
import outbox_projector

HEAVY = {"pulsar", "_pulsar", "kubernetes", "kopf", "aiohttp"}


def test_the_names_that_the_library_promises() -> None:
    assert sorted(bento_outbox.__all__) == [
        "BusUnavailable",
        "Codec",
        "DirectPublish",
        "DomainEvent",
        "Envelope",
        "EventNotEncodable",
        "EventsRefused",
        "HoldsEvents",
        "InMemoryMessageBus",
        "Inbox",
        "MessageBus",
        "MisuseError",
        "NoActiveUnitOfWork",
        "Outbox",
        "OutboxError",
        "OutboxRecord",
        "Refusal",
        "Repository",
        "SchemaError",
        "TenantMissing",
        "UnitOfWork",
        "__version__",
        "acting_for",
        "apply_schema",
        "decode",
        "event_type",
        "in_conversation",
        "make_inbox_table",
        "make_outbox_table",
        "opened",
        "register_event_from_aggregate",
        "schema_sql",
        "sealed",
        "upcaster",
        "validate_schema",
    ]


def test_the_names_that_the_projector_promises() -> None:
    assert sorted(outbox_projector.__all__) == ["OutboxProjector", "Polling", "Retries"]


@pytest.mark.parametrize("module", [bento_outbox, outbox_projector])
def test_every_promised_name_exists(module: object) -> None:
    assert all(hasattr(module, name) for name in module.__all__)  # type: ignore[attr-defined]


def _promised() -> Iterator[tuple[str, object]]:
    for module in (bento_outbox, outbox_projector):
        for name in module.__all__:
            thing = getattr(module, name)
            if callable(thing):
                yield f"{module.__name__}.{name}", thing


def _without_docstring(name: str, thing: object) -> Iterator[str]:
    if not inspect.getdoc(thing):
        yield name
    if not inspect.isclass(thing):
        return
    for attribute, member in dict(vars(thing)).items():
        has_text = inspect.isfunction(member) or isinstance(member, property)
        if has_text and not attribute.startswith("_") and not _documented(thing, attribute):
            yield f"{name}.{attribute}"


def _documented(owner: type, attribute: str) -> bool:
    """Here, in the port that it implements, or (protocols of one member) in the docstring of the class."""
    places = (vars(owner)[attribute], getattr(bento_outbox.MessageBus, attribute, None))
    return any(place is not None and place.__doc__ for place in places) or f"`{attribute}`" in (owner.__doc__ or "")


@pytest.mark.parametrize(("name", "thing"), list(_promised()))
def test_every_promised_name_is_documented(name: str, thing: object) -> None:
    assert list(_without_docstring(name, thing)) == []


def test_importing_the_library_pulls_in_no_broker_and_no_kubernetes_client() -> None:
    """In a process of its own: this one has imported everything already."""
    assert _loaded_by("from bento_outbox import *") & HEAVY == set()


def test_the_projectors_process_does_without_sqlalchemy() -> None:
    """20 MB and a quarter of a second, for each tenant."""
    assert "sqlalchemy" not in _loaded_by("import outbox_projector.app, outbox_projector.cli")


def _loaded_by(program: str) -> set[str]:
    """The modules that a process of its own has then: this one has imported everything already."""
    command = [sys.executable, "-c", f"import sys; {program}; print(*sys.modules)"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_both_packages_are_typed() -> None:
    assert all(files(name).joinpath("py.typed").is_file() for name in ("bento_outbox", "outbox_projector"))
