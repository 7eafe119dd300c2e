"""Which templates and service URLs a Pulsar bus takes."""

from __future__ import annotations

import pytest

from bento_outbox import MisuseError
from bento_outbox.pulsar_bus import (
    DEFAULT_TOPIC,
    PulsarMessageBus,
    check_topic_template,
)
from bento_outbox.pulsar_client import check_service_url


@pytest.mark.parametrize(
    "template", [DEFAULT_TOPIC, "persistent://public/default/all", "persistent://{tenant}/default/{type}"]
)
def test_a_template_may_hold_tenant_and_type(template: str) -> None:
    assert check_topic_template(template) == template


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("persistent://public/default/{customer}", r"unknown placeholder \{customer\}: use \{tenant\} or \{type\}"),
        ("persistent://public/default/{}", r"unknown placeholder \{\}"),
        ("persistent://public/default/{tenant.__class__}", r"unknown placeholder \{tenant.__class__\}"),
        ("persistent://public/default/{tenant", "is not a template"),
        ("persistent://public/default/{tenant:>20}", r"write \{tenant\} alone"),
        ("persistent://public/default/{type!r}", r"write \{type\} alone"),
    ],
)
def test_anything_else_is_refused_at_once(template: str, complaint: str) -> None:
    with pytest.raises(MisuseError, match=complaint):
        PulsarMessageBus("pulsar://broker:6650", topic=template)


@pytest.mark.parametrize(
    "url",
    [
        "pulsar://broker:6650",
        "pulsar+ssl://broker:6651",
        "pulsar://broker",
        "pulsar://one:6650,two:6650",
        "pulsar://[::1]:6650",
    ],
)
def test_service_urls_that_the_client_takes(url: str) -> None:
    assert check_service_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker:6650",
        "http://broker:8080",
        "pulsar://",
        "pulsar://broker:port",
        "pulsar://broker:99999",
        "pulsar://a b",
    ],
)
def test_service_urls_that_it_does_not_take_are_refused_at_once(url: str) -> None:
    with pytest.raises(MisuseError, match=r"pulsar://host:6650 or pulsar\+ssl://host:6651"):
        PulsarMessageBus(url)


def test_without_the_client_the_error_names_the_extra(pytester: pytest.Pytester) -> None:
    """The package that is called like the module is another one."""
    pytester.makepyfile("""
        import sys
        import pytest

        def test_import():
            sys.modules["pulsar"] = None
            with pytest.raises(ImportError, match=r"pip install 'bento-outbox\\[pulsar\\]'"):
                import bento_outbox.pulsar_bus
    """)

    pytester.runpytest_subprocess().assert_outcomes(passed=1)
