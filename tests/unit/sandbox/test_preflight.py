"""What stands in the way is said in one sentence with the way out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sandbox.preflight import Facts, refusal

FINE = Facts(
    system="Linux",
    root=True,
    namespaces=True,
    apt=True,
    missing_packages=["containerd"],
    cache=Path("/home/me/.cache/bento-outbox"),
    free_gigabytes=30,
    needed_gigabytes=12,
)


def test_nothing_stands_in_the_way() -> None:
    assert refusal(FINE) is None


def test_missing_packages_do_not_matter_when_there_are_none() -> None:
    assert refusal(replace(FINE, apt=False, missing_packages=[])) is None


@pytest.mark.parametrize(
    ("facts", "cause", "way_out"),
    [
        (replace(FINE, system="Darwin"), "needs Linux", "virtual machine"),
        (replace(FINE, root=False), "needs root", "sudo"),
        (replace(FINE, namespaces=False), "no namespaces", "privileged"),
        (replace(FINE, apt=False), "neither Debian nor Ubuntu", "install containerd"),
        (replace(FINE, free_gigabytes=3), "3.0 GB left and 12 GB", "XDG_CACHE_HOME"),
    ],
)
def test_the_refusal_names_the_cause_and_the_way_out(facts: Facts, cause: str, way_out: str) -> None:
    sentence = refusal(facts)
    assert sentence is not None
    assert cause in sentence
    assert way_out in sentence


def test_the_first_obstacle_is_the_one_that_is_named() -> None:
    sentence = refusal(replace(FINE, system="Darwin", root=False, free_gigabytes=0))
    assert sentence is not None
    assert "Linux" in sentence
