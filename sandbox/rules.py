"""Decides what to start, from what was asked for and what the environment says exists already. Nothing is begun here.

The sandbox's network is private, so a mixture of old and new needs thought:

    all parts exist                   nothing is started, and commands run on the host as they are
    none exists                       all are started, and commands run in the sandbox
    a database or broker exists,      a relay makes it reachable in the sandbox, under an address that pods can use
    the cluster is ours
    a cluster exists, the database    refused: that cluster's pods could never reach them
    or the broker would be ours
"""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from sandbox import kubernetes, namespace, network, postgres, preflight, pulsar
from sandbox.errors import SandboxError
from sandbox.parts import PARTS, Part


@dataclass(frozen=True)
class Relay:
    variable: str
    url: str
    """What the variable is inside."""
    listen: str
    target: str
    port: int

    @property
    def arguments(self) -> list[str]:
        return [self.listen, str(self.port), self.target, str(self.port)]


@dataclass(frozen=True)
class Plan:
    start: tuple[str, ...] = ()
    """The parts to start, in order."""
    existing: tuple[str, ...] = ()
    """The parts that were asked for and exist elsewhere."""
    relays: tuple[Relay, ...] = ()


def plan(requested: Sequence[str], environ: Mapping[str, str], *, resolve: Callable[[str], str]) -> Plan:
    """What to do so that the parts of `requested` (none means all) can be used; `resolve` finds a host's address."""
    unknown = [name for name in requested if name not in PARTS]
    if unknown:
        raise SandboxError(f"There is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}.")
    needed = {*requested, *(need for name in requested for need in PARTS[name].needs)} or PARTS.keys()
    wanted = [part for part in PARTS.values() if part.name in needed]
    existing = [part for part in wanted if _exists(part, environ)]
    start = [part for part in wanted if part not in existing]
    names = {part.name for part in start}
    if kubernetes.NAME in {part.name for part in existing} and names & {postgres.NAME, pulsar.NAME}:
        raise SandboxError(
            "KUBECONFIG names an existing cluster, whose pods could not reach a Postgres or Pulsar in the private "
            "network here: set DATABASE_URL and PULSAR_URL to ones that they can reach, or unset KUBECONFIG."
        )
    relays = [
        _relay(variable, environ[variable], pods=kubernetes.NAME in names, resolve=resolve)
        for part in existing
        for variable in part.environment()
        if names and variable != kubernetes.VARIABLE and environ.get(variable)
    ]
    return Plan(
        start=tuple(part.name for part in start),
        existing=tuple(part.name for part in existing),
        relays=tuple(relays),
    )


def obstacle(requested: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Why these parts cannot be used on this machine, if they cannot; for who would rather skip than fail."""
    try:
        start = plan(requested, environ, resolve=network.address_of).start if requested else ()
    except SandboxError as error:
        return str(error)
    return preflight.refusal(preflight.facts(start)) if start and not namespace.inside() else None


def _exists(part: Part, environ: Mapping[str, str]) -> bool:
    """Whether the environment names one elsewhere. One of our own, as in a shell in the sandbox, does not count."""
    value = environ.get(part.variable)
    ours = kubernetes.environment() if part.variable == kubernetes.VARIABLE else part.environment()
    return bool(value) and value != ours[part.variable]


def _relay(variable: str, url: str, *, pods: bool, resolve: Callable[[str], str]) -> Relay:
    parts = urlsplit(url)
    try:
        host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    except (ValueError, KeyError):
        raise SandboxError(
            f"{variable} is not a URL with one host, as it has to be to mix it with parts from here."
        ) from None
    target = resolve(host)
    if not ipaddress.ip_address(target).is_loopback:
        return Relay(variable, _with_host(parts, target), listen=target, target=target, port=port)
    if variable == postgres.VARIABLE:
        return Relay(variable, _with_host(parts, network.NODE), listen=network.NODE, target=target, port=port)
    if pods:
        # A broker tells its clients the address to connect to; a relay under another name would not help them.
        raise SandboxError(
            f"{variable} names {host}, which to a pod is the pod itself: let the broker advertise an address of this "
            "machine's network and name that, or unset it."
        )
    return Relay(variable, _with_host(parts, target), listen=target, target=target, port=port)


def _with_host(parts: SplitResult, host: str) -> str:
    user, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"{user}{at}{host}{port}").geturl()


PORTS = {
    "postgresql": 5432,
    "postgres": 5432,
    "postgresql+asyncpg": 5432,
    "pulsar": 6650,
    "pulsar+ssl": 6651,
    "http": 80,
    "https": 443,
}
