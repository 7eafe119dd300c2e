"""A control plane of our own: etcd, API server, controller manager and scheduler as in any cluster, and one node that
kwok pretends to be, so that any number of pods costs nothing but their objects."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bench.harness.errors import BenchError
from bench.harness.process import Process
from sandbox import components, network

READY_SECONDS = 60
NODE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {
        "name": "kwok",
        "annotations": {"kwok.x-k8s.io/node": "fake"},
        "labels": {"kubernetes.io/hostname": "kwok"},
    },
    "status": {
        "allocatable": {"cpu": "10000", "memory": "10Ti", "pods": "20000"},
        "capacity": {"cpu": "10000", "memory": "10Ti", "pods": "20000"},
    },
}


@dataclass(frozen=True)
class ControlPlane:
    """Where it is and how an administrator logs in."""

    home: Path
    server: str
    token: str

    @property
    def kubeconfig(self) -> Path:
        return self.home / "kubeconfig"

    @property
    def certificate(self) -> Path:
        return self.home / "pki" / "apiserver.crt"

    def kubectl(self, *arguments: str, manifest: Any = None) -> str:
        """The output of kubectl; `manifest` goes in by its standard input."""
        text = None if manifest is None else yaml.safe_dump(manifest)
        command = [str(components.folder() / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


@contextmanager
def own_control_plane() -> Iterator[ControlPlane]:
    """Starts it, and removes it with all that is in it."""
    with tempfile.TemporaryDirectory(prefix="bench-cluster-") as folder, ExitStack() as stack:
        etcd, peer, api, controllers, scheduler, kwok = _free_ports(6)
        plane = ControlPlane(Path(folder), f"https://{network.NODE}:{api}", secrets.token_hex(16))
        _prepare(plane)

        def start(name: str, *options: str, program: Path | None = None) -> None:
            command = [str(program or components.folder() / name), *options]
            stack.enter_context(Process(command, env=os.environ, log=plane.home / f"{name}.log", cwd=plane.home))

        start("etcd", *_etcd(plane, etcd, peer))
        start("kube-apiserver", *_api_server(plane, etcd, api))
        _until_ready(plane)
        account = [f"--kubeconfig={plane.kubeconfig}", "--leader-elect=false"]
        rate = ["--kube-api-qps=500", "--kube-api-burst=1000"]
        start("kube-controller-manager", *account, *rate, *_controllers(plane), f"--secure-port={controllers}")
        start("kube-scheduler", *account, *rate, f"--secure-port={scheduler}")
        start("kwok", *_kwok(plane, kwok), program=components.kwok())
        plane.kubectl("apply", "-f", "-", manifest=NODE)
        yield plane


def _free_ports(number: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _prepare(plane: ControlPlane) -> None:
    (plane.home / "pki").mkdir()
    key = plane.home / "pki" / "accounts.key"
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    (plane.home / "tokens.csv").write_text(f"{plane.token},admin,admin,system:masters\n")
    cluster = {"server": plane.server, "certificate-authority": str(plane.certificate)}
    configuration = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": plane.token}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "admin"}}],
        "current-context": "bench",
    }
    plane.kubeconfig.write_text(yaml.safe_dump(configuration))


def _etcd(plane: ControlPlane, port: int, peer: int) -> list[str]:
    url, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    return [
        *(f"--data-dir={plane.home / 'etcd'}", "--unsafe-no-fsync", "--quota-backend-bytes=4294967296"),
        *(f"--listen-client-urls={url}", f"--advertise-client-urls={url}"),
        *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}"),
        f"--initial-cluster=default={peers}",
    ]


def _api_server(plane: ControlPlane, etcd: int, port: int) -> list[str]:
    key = plane.home / "pki" / "accounts.key"
    return [
        *(f"--etcd-servers=http://127.0.0.1:{etcd}", f"--cert-dir={plane.home / 'pki'}", f"--secure-port={port}"),
        *(f"--advertise-address={network.NODE}", "--service-cluster-ip-range=10.97.0.0/16"),
        *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
        "--service-account-issuer=https://kubernetes.default.svc",
        *(f"--token-auth-file={plane.home / 'tokens.csv'}", "--authorization-mode=RBAC"),
    ]


def _controllers(plane: ControlPlane) -> list[str]:
    return [
        f"--service-account-private-key-file={plane.home / 'pki' / 'accounts.key'}",
        f"--root-ca-file={plane.certificate}",
    ]


def _kwok(plane: ControlPlane, port: int) -> list[str]:
    return [
        *(f"--kubeconfig={plane.kubeconfig}", "--manage-all-nodes=true", f"--server-address=127.0.0.1:{port}"),
        # Otherwise nobody renews them, and all its pods go unready after a minute.
        "--node-lease-duration-seconds=40",
    ]


def _until_ready(plane: ControlPlane) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if plane.kubectl("get", "--raw", "/readyz") == "ok":
                return
        except BenchError as error:
            if time.monotonic() > deadline:
                log = (plane.home / "kube-apiserver.log").read_text()[-2000:]
                raise BenchError(f"The API server was not ready in {READY_SECONDS} s: {error}\n{log}") from error
        time.sleep(0.2)
