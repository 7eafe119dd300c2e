"""A one-node Kubernetes: the real components, each with the identity and the rights it has in any cluster.

Every component logs in by a token of its own (`system:node:node1`, `system:kube-scheduler` …), so the node
authorizer, NodeRestriction and RBAC are in force as usual; only the person in the sandbox is cluster admin. The API
server makes its own certificate. There is no cluster DNS: Postgres and Pulsar are reached by their address, and the API
by that of its Service.
"""

import json
import secrets
import ssl
import string
import urllib.request
from pathlib import Path

from sandbox import components, containers, golang, namespace, network, paths, processes, progress
from sandbox.daemons import Daemon, until

NAME = "kubernetes"
VARIABLE = "KUBECONFIG"
SERVER = f"https://{network.NODE}:6443"
NODE = "node1"

# user name → groups; the names are those that RBAC's built-in roles are bound to.
IDENTITIES = {
    "admin": ["system:masters"],
    f"system:node:{NODE}": ["system:nodes"],
    "system:kube-controller-manager": [],
    "system:kube-scheduler": [],
    "system:kube-proxy": [],
}


def home() -> Path:
    return paths.run() / "kubernetes"


def fetches() -> frozenset[str]:
    return frozenset() if components.folder().exists() else golang.fetches()


def prepare() -> None:
    components.prepare()
    containers.prepare()


def environment() -> dict[str, str]:
    return {VARIABLE: str(kubeconfig("admin"))}


def kubeconfig(user: str) -> Path:
    return home() / f"{user.replace(':', '-')}.kubeconfig"


def start() -> None:
    if not (home() / "tokens.csv").exists():
        _identities()
    with progress.step("starting Kubernetes"):
        containerd = containers.start()
        _etcd().start()
        server = _api_server()
        server.start()
        server.wait(_api_ready, seconds=120)
        _kubeconfigs()
        containerd.wait(containers.answers, seconds=60)
        if containers.PAUSE not in containers.known():
            containers.load(containers.pause_archive())
        for daemon in (_controller_manager(), _scheduler(), _kubelet(), _proxy()):
            daemon.start()
        if _get("/api/v1/namespaces/kube-system/services/kube-dns") is None:
            _create_dns_service()
        until(ready, what="Kubernetes was not usable", seconds=120, log=paths.logs() / "kubelet.log")


def _identities() -> None:
    pki = home() / "pki"
    pki.mkdir(parents=True, exist_ok=True)
    processes.run(
        ["openssl", "genrsa", "-out", pki / "service-accounts.key", "2048"],
        what="making the key of the service accounts",
        log=paths.logs() / "openssl.log",
    )
    lines = [",".join([secrets.token_hex(16), user, user, *groups]) for user, groups in IDENTITIES.items()]
    scratch = home() / "tokens.partial"
    scratch.write_text("\n".join(lines) + "\n")
    scratch.chmod(0o600)
    scratch.rename(home() / "tokens.csv")


def _kubeconfigs() -> None:
    certificate = home() / "pki" / "apiserver.crt"
    for line in (home() / "tokens.csv").read_text().splitlines():
        token, user = line.split(",")[:2]
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "sandbox", "cluster": {"server": SERVER, "certificate-authority": str(certificate)}}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "sandbox", "context": {"cluster": "sandbox", "user": user}}],
            "current-context": "sandbox",
        }
        scratch = kubeconfig(user).with_suffix(".partial")
        scratch.write_text(json.dumps(text, indent=2))
        scratch.chmod(0o600)
        scratch.rename(kubeconfig(user))


def _program(name: str) -> Path:
    return components.folder() / name


def _etcd() -> Daemon:
    url = "http://127.0.0.1:2379"
    return Daemon(
        "etcd",
        [
            *(_program("etcd"), "--data-dir", home() / "etcd"),
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            # Nothing outlives the sandbox, so nothing needs to survive a power failure.
            *("--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync"),
        ],
    )


def _api_server() -> Daemon:
    key = home() / "pki" / "service-accounts.key"
    return Daemon(
        "kube-apiserver",
        [
            *(_program("kube-apiserver"), "--etcd-servers=http://127.0.0.1:2379", f"--cert-dir={home() / 'pki'}"),
            *(f"--advertise-address={network.NODE}", "--secure-port=6443", "--allow-privileged=true"),
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
            *("--service-account-issuer=https://kubernetes.default.svc", f"--token-auth-file={home() / 'tokens.csv'}"),
            *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"),
            f"--service-cluster-ip-range={network.SERVICE_NETWORK}",
            # Or `kubectl logs` would try to resolve the node's name.
            "--kubelet-preferred-address-types=InternalIP",
        ],
    )


def _controller_manager() -> Daemon:
    return Daemon(
        "kube-controller-manager",
        [
            *(_program("kube-controller-manager"), f"--kubeconfig={kubeconfig('system:kube-controller-manager')}"),
            *("--use-service-account-credentials=true", "--leader-elect=false"),
            *("--kube-api-qps=200", "--kube-api-burst=400"),
            f"--service-account-private-key-file={home() / 'pki' / 'service-accounts.key'}",
            f"--root-ca-file={home() / 'pki' / 'apiserver.crt'}",
        ],
    )


def _scheduler() -> Daemon:
    return Daemon(
        "kube-scheduler",
        [
            *(_program("kube-scheduler"), f"--kubeconfig={kubeconfig('system:kube-scheduler')}"),
            *("--leader-elect=false", "--kube-api-qps=200", "--kube-api-burst=400"),
        ],
    )


def _kubelet() -> Daemon:
    configuration = home() / "kubelet.yaml"
    template = string.Template((paths.TEMPLATES / "kubelet.yaml").read_text())
    configuration.write_text(
        template.substitute(address=network.NODE, cgroup=namespace.cgroup_name(), dns=network.SERVICE_DNS)
    )
    return Daemon(
        "kubelet",
        [
            *(_program("kubelet"), f"--config={configuration}", f"--kubeconfig={kubeconfig(f'system:node:{NODE}')}"),
            *(f"--hostname-override={NODE}", f"--node-ip={network.NODE}"),
            *("--root-dir=/var/lib/kubelet", f"--cert-dir={home() / 'kubelet-pki'}"),
        ],
    )


def _proxy() -> Daemon:
    return Daemon(
        "kube-proxy",
        [
            *(_program("kube-proxy"), f"--kubeconfig={kubeconfig('system:kube-proxy')}", "--proxy-mode=iptables"),
            *(f"--hostname-override={NODE}", f"--cluster-cidr={network.POD_NETWORK}"),
            # The limits of connection tracking belong to the host; they are left alone.
            *("--conntrack-max-per-core=0", "--conntrack-min=0"),
            *("--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s"),
        ],
    )


def _create_dns_service() -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {
            "clusterIP": network.SERVICE_DNS,
            "ports": [{"name": protocol.lower(), "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")],
        },
    }
    _call("/api/v1/namespaces/kube-system/services", json.dumps(service).encode())


def _api_ready() -> bool:
    # It writes its certificate on its first start.
    return (home() / "pki" / "apiserver.crt").exists() and _get("/readyz") == b"ok"


def ready() -> bool:
    """Pods can be run: the node is ready, its proxy has seen the services, and there is an account for pods."""
    try:
        node = json.loads(_get(f"/api/v1/nodes/{NODE}") or b"{}")
        conditions = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions", [])}
        account = _get("/api/v1/namespaces/default/serviceaccounts/default") is not None
        with urllib.request.urlopen("http://127.0.0.1:10256/healthz", timeout=5):
            return conditions.get("Ready") == "True" and account
    except OSError:
        return False


def _get(path: str) -> bytes | None:
    try:
        return _call(path)
    except OSError:
        return None


def _call(path: str, body: bytes | None = None) -> bytes:
    token = (home() / "tokens.csv").read_text().split(",")[0]
    request = urllib.request.Request(SERVER + path, data=body, headers={"Authorization": f"Bearer {token}"})  # noqa: S310
    if body is not None:
        request.add_header("Content-Type", "application/json")
    trust = ssl.create_default_context(cafile=str(home() / "pki" / "apiserver.crt"))
    with urllib.request.urlopen(request, timeout=10, context=trust) as response:  # noqa: S310
        content: bytes = response.read()
        return content
