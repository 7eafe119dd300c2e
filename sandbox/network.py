"""The addresses of the sandbox's private network. They exist nowhere else: each sandbox has the network to itself."""

import socket

from sandbox.errors import SandboxError

NODE = "172.30.0.1"
"""The node's address; Postgres and Pulsar listen here too, so that one URL serves pods and people."""
NODE_NETWORK = "172.30.0.1/24"
POD_NETWORK = "10.244.0.0/16"
SERVICE_NETWORK = "10.96.0.0/16"
SERVICE_DNS = "10.96.0.10"
"""The address that pods are given for names. There is no cluster DNS; a Service without endpoints refuses at once."""


def address_of(host: str) -> str:
    """The address of a host outside, as this machine sees it."""
    try:
        found = socket.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError as error:
        raise SandboxError(f"The host {host!r} in DATABASE_URL or PULSAR_URL cannot be resolved: {error}.") from error
    return str(found[0][4][0])
