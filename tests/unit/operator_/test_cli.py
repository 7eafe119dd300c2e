"""The command line: wrong settings and a missing cluster are said in one sentence each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

from outbox_operator.cli import main
from outbox_operator.settings import Settings


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """The command sets logging up for its process, which here is that of all tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("OUTBOX_OPERATOR_WORKERS", "0", "greater than or equal to 1"),
        ("OUTBOX_OPERATOR_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("OUTBOX_OPERATOR_NAMESPACES", "shop bank", "should match pattern"),
        ("OUTBOX_OPERATOR_PROJECTOR_IMAGE", "", "at least 1 character"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, words: str) -> None:
    result = CliRunner().invoke(main, ["run"], env={name: value})
    assert result.exit_code == 2
    assert result.output.startswith(f"{name}: ")
    assert words in result.output


def test_namespaces_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX_OPERATOR_NAMESPACES", "shop, bank,")
    assert Settings().namespaces == ("shop", "bank")


def test_the_default_image_has_the_version_of_the_distribution() -> None:
    assert Settings().projector_image.startswith("localhost/bento-outbox/projector:")


def test_all_settings_are_listed_with_their_meaning() -> None:
    output = CliRunner().invoke(main, ["settings"]).output
    for name in Settings.model_fields:
        assert f"OUTBOX_OPERATOR_{name.upper()}=" in output
    assert "Namespaces to serve" in output


@pytest.mark.parametrize("content", [None, "", "a: ["])
def test_without_a_cluster_the_way_out_is_said(tmp_path: Path, content: str | None) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    if content is not None:
        kubeconfig.write_text(content)
    result = CliRunner().invoke(main, ["run"], env={"KUBECONFIG": str(kubeconfig), "KUBERNETES_SERVICE_HOST": None})
    assert result.exit_code == 1
    assert f"no usable kubeconfig in {kubeconfig}" in result.output
    assert "Set KUBECONFIG to a kubeconfig file" in result.output
