"""The parts of the sandbox, in the order of their start, and what each brings along."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox import components, distribution, kubernetes, postgres, project_images, pulsar
from sandbox.distribution import Program


@dataclass(frozen=True, kw_only=True)
class Part:
    name: str
    title: str
    variable: str
    """When this is set in the environment, the part exists already and is not started."""
    programs: tuple[Program, ...]
    """What it needs of the distribution."""
    prepare: Callable[[], None]
    start: Callable[[], None]
    environment: Callable[[], Mapping[str, str]] = dict
    path: Callable[[], Sequence[Path]] = tuple
    """Folders with programs that a person uses with this part."""
    needs: tuple[str, ...] = ()
    fetches: Callable[[], frozenset[str]]
    """The package registries that are still needed to build it; none once it is built."""
    gigabytes: float
    """Room on disk that building it takes, at its peak."""
    ready: Callable[[], bool]
    """Whether it can be used now; asked inside the sandbox."""


PARTS = {
    part.name: part
    for part in (
        Part(
            name=postgres.NAME,
            title="Postgres",
            variable=postgres.VARIABLE,
            programs=(distribution.IPROUTE, distribution.PGBOUNCER),
            fetches=postgres.fetches,
            gigabytes=0.5,
            prepare=postgres.prepare,
            start=postgres.start,
            ready=postgres.ready,
            environment=postgres.environment,
            path=lambda: [postgres.binaries()],
        ),
        Part(
            name=pulsar.NAME,
            title="Pulsar",
            variable=pulsar.VARIABLE,
            programs=(distribution.IPROUTE, distribution.MAVEN),
            fetches=pulsar.fetches,
            gigabytes=1.5,
            prepare=pulsar.prepare,
            start=pulsar.start,
            ready=pulsar.ready,
            environment=pulsar.environment,
        ),
        Part(
            name=kubernetes.NAME,
            title="Kubernetes",
            variable=kubernetes.VARIABLE,
            programs=(
                *(distribution.IPROUTE, distribution.IPTABLES, distribution.CONNTRACK, distribution.OPENSSL),
                *(distribution.CONTAINERD, distribution.RUNC, distribution.CNI, distribution.BUILDAH),
            ),
            fetches=kubernetes.fetches,
            gigabytes=8,
            prepare=kubernetes.prepare,
            start=kubernetes.start,
            ready=kubernetes.ready,
            environment=kubernetes.environment,
            path=lambda: [components.folder()],
        ),
        Part(
            name=project_images.NAME,
            title="The project's images",
            # Images are loaded into the cluster that is started here, never into another.
            variable=kubernetes.VARIABLE,
            programs=(distribution.CONTAINERD, distribution.BUILDAH, distribution.DEBOOTSTRAP),
            fetches=project_images.fetches,
            gigabytes=4,
            prepare=project_images.prepare,
            start=project_images.start,
            ready=project_images.ready,
            needs=(kubernetes.NAME,),
        ),
    )
}
