"""The Kubernetes programs, compiled here: no place to download them from is needed beyond the Go module proxy.

etcd, the control plane, kubelet, kube-proxy and kubectl are one binary (components/main.go) under seven names. helm and
the `pause` program share most of what they are made of with it, so all are compiled in one go. kwok is not: it is for a
benchmark only and compiled when that asks for it.
"""

from pathlib import Path

from sandbox import caching, golang, paths, processes, progress, versions

NAMES = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"]

KWOK = "sigs.k8s.io/kwok/cmd/kwok"

# Clients parse the version that the API server gives; unset, it would be v0.0.0.
KUBERNETES_VALUES = {
    "k8s.io/component-base/version.gitVersion": f"v{versions.KUBERNETES}",
    "k8s.io/component-base/version.gitMajor": versions.KUBERNETES.split(".")[0],
    "k8s.io/component-base/version.gitMinor": versions.KUBERNETES.split(".")[1],
    "k8s.io/component-base/version.gitTreeState": "clean",
}
HELM_VALUES = {
    "helm.sh/helm/v3/internal/version.version": f"v{versions.HELM}",
    "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": versions.KUBERNETES.split(".")[0],
    "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": versions.KUBERNETES.split(".")[1],
}


def folder() -> Path:
    """The folder with all programs, whether it is built yet or not; its name says what is in it."""
    digest = caching.digest(paths.COMPONENTS, salt=[*KUBERNETES_VALUES.values(), *HELM_VALUES.values()])
    return paths.cache() / f"kubernetes-{versions.KUBERNETES}-{digest}"


def prepare() -> None:
    caching.built(folder().name, _build)


def _build(scratch: Path) -> None:
    with progress.step(f"compiling Kubernetes {versions.KUBERNETES} and helm {versions.HELM} (the longest step)"):
        golang.build(
            [".", "./pause", "helm.sh/helm/v3/cmd/helm"],
            into=scratch,
            values={**KUBERNETES_VALUES, **HELM_VALUES},
            what="compiling Kubernetes and helm",
            log=paths.build_logs() / "kubernetes.log",
        )
    for name in NAMES:
        (scratch / name).symlink_to("components")


def kwok() -> Path:
    """The program `kwok`, which simulates any number of nodes and pods; compiled on first use."""

    def build(scratch: Path) -> None:
        with progress.step(f"compiling kwok {versions.KWOK}"):
            processes.run(
                [golang.program(), "install", "-trimpath", "-ldflags", "-s -w", f"{KWOK}@v{versions.KWOK}"],
                what="compiling kwok",
                log=paths.build_logs() / "kwok.log",
                env={**golang.environment(), "GOFLAGS": "-modcacherw", "GOBIN": str(scratch)},
            )

    return caching.built(f"kwok-{versions.KWOK}", build) / "kwok"
