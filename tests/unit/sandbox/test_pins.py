"""Versions are pinned once: where they have to be repeated, the copies are equal."""

from __future__ import annotations

import re
import string

import pytest

from sandbox import golang, java, paths, project_images, versions
from sandbox.buildah import pip_options


def required(module: str) -> str:
    found = re.search(rf"^\s*{re.escape(module)} v(\S+)", (paths.COMPONENTS / "go.mod").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_go_mod_pins_the_kubernetes_that_the_programs_say_they_are() -> None:
    assert required("k8s.io/kubernetes") == versions.KUBERNETES


def test_go_mod_pins_the_helm_that_it_says_it_is() -> None:
    assert required("helm.sh/helm/v3") == versions.HELM


def test_the_staging_modules_match_kubernetes() -> None:
    text = (paths.COMPONENTS / "go.mod").read_text()
    replaced = re.findall(r"^\s*(k8s\.io/\S+) => (k8s\.io/\S+) v0\.(\S+)", text, re.MULTILINE)
    assert len(replaced) > 20
    assert {version for _, _, version in replaced} == {versions.KUBERNETES.removeprefix("1.")}


@pytest.mark.parametrize("name", sorted(path.name for path in paths.TEMPLATES.iterdir()))
def test_templates_are_valid(name: str) -> None:
    assert string.Template((paths.TEMPLATES / name).read_text()).is_valid()


def test_everything_the_images_are_made_of_exists() -> None:
    for name in (*project_images.SOURCES, *project_images.FOLDERS):
        assert (paths.PROJECT / name).exists()


@pytest.mark.parametrize(
    ("printed", "release"),
    [("go version go1.26.8 linux/amd64", (1, 26)), ("go version go1.24rc1 linux/arm64", (1, 24)), ("", (0,))],
)
def test_the_release_of_go_is_read(printed: str, release: tuple[int, ...]) -> None:
    assert golang.release(printed) == release


@pytest.mark.parametrize(
    ("printed", "major"),
    [('openjdk version "17.0.15" 2025-04-15', 17), ('java version "1.8.0_402"', 8), ("not found", 0)],
)
def test_the_version_of_java_is_read(printed: str, major: int) -> None:
    assert java.major(printed) == major


def test_pip_options_of_the_environment_come_before_those_of_files() -> None:
    listing = (
        "global.timeout='15'\nglobal.index-url='https://files.example/simple'\n:env:.timeout='180'\ninstall.user='1'"
    )
    assert pip_options(listing) == {"timeout": "180", "index-url": "https://files.example/simple"}
