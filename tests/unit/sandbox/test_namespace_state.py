"""A sandbox is found again by its state file, and never mistaken for another process."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from sandbox import namespace, paths
from sandbox.namespace import State


@pytest.fixture
def myself(cache: Path) -> State:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return State(pid=os.getpid(), started=namespace.started(os.getpid()), boot=boot, made=[])


def test_there_is_no_state_before_the_first_sandbox(cache: Path) -> None:
    assert namespace.read() is None
    assert namespace.current() is None


def test_the_state_is_read_as_it_was_written(myself: State) -> None:
    paths.run().mkdir(parents=True)
    namespace.write(myself)
    assert namespace.current() == myself


def test_a_process_of_another_start_is_another_process(myself: State) -> None:
    assert not namespace.alive(replace(myself, started="1"))


def test_a_process_of_another_boot_is_another_process(myself: State) -> None:
    assert not namespace.alive(replace(myself, boot="another"))


def test_a_sandbox_that_never_came_up_does_not_live(myself: State) -> None:
    assert not namespace.alive(State(pid=0, started="", boot="", made=["/var/lib/cni"]))


def test_a_damaged_state_is_no_state(cache: Path) -> None:
    paths.run().mkdir(parents=True)
    (paths.run() / "state.json").write_text('{"pid": 1')
    assert namespace.read() is None


def test_destroying_what_never_came_up_removes_its_files(cache: Path, tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    paths.logs().mkdir(parents=True)
    namespace.write(State(pid=0, started="", boot="", made=[str(made)]))
    assert namespace.destroy()
    assert not made.exists()
    assert not paths.run().exists()
    assert not namespace.destroy()


def test_each_cache_has_a_control_group_of_its_own(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = namespace.cgroup_name()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    assert namespace.cgroup_name() != first


def test_entering_keeps_the_working_folder_and_the_command(myself: State) -> None:
    command = namespace.entering(myself, ["kubectl", "get", "pods"])
    assert command[0] == "nsenter"
    assert f"--target={os.getpid()}" in command
    assert f"--wd={Path.cwd()}" in command
    assert command[-3:] == ["kubectl", "get", "pods"]
