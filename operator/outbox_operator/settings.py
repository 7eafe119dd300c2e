"""Settings of the operator: variables of the environment named OUTBOX_OPERATOR_…, checked once at the start."""

from __future__ import annotations

import socket
from importlib.metadata import version
from typing import Annotated, Literal
from uuid import uuid4

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from outbox_operator.keys import FIELD_MANAGER

DISTRIBUTION = "bento-outbox"


class Settings(BaseSettings):
    """What can be set, each with a default that suits a cluster of a few thousand tenants."""

    model_config = SettingsConfigDict(
        env_prefix="OUTBOX_OPERATOR_", extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    projector_image: str = Field(
        default_factory=lambda: f"localhost/{DISTRIBUTION}/projector:{version(DISTRIBUTION)}", min_length=1
    )
    """Image of the projector for tenants that name none. Another value rolls all of them."""

    namespaces: Annotated[tuple[Annotated[str, Field(pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")], ...], NoDecode] = ()
    """Namespaces to serve, separated by commas. Empty: the whole cluster, which needs a ClusterRole."""

    lease_namespace: str = Field(default="default", min_length=1)
    """Where the Lease is that decides which replica acts: the operator's own namespace."""

    lease_name: str = Field(default=FIELD_MANAGER, min_length=1)
    """Name of the Lease. Operators for different namespaces have different ones."""

    identity: str = Field(default_factory=lambda: f"{socket.gethostname()}_{uuid4().hex[:8]}", min_length=1)
    """Who holds the Lease; another one in every process."""

    workers: int = Field(default=16, ge=1, le=256)
    """Tenants that are looked at at the same time, each with a connection to the API server. A look that has
    something to write waits for the API server most of its time; more than 32 only make that one slower."""

    max_concurrent_rollouts: int = Field(default=10, ge=1, le=10000)
    """Tenants whose pods are replaced at the same time because of another projector image, or another operator. One
    that fails keeps its place: so many at most meet an image that does not start, and their old pods go on. A change of
    a tenant's own spec is not held back."""

    resync_seconds: float = Field(default=600.0, ge=10.0)
    """Time between two complete passes. They only matter for what a watch has missed, and cost two seconds of CPU per
    5,000 tenants."""

    http_port: int = Field(default=8080, ge=1, le=65535)
    """Port of /healthz and /metrics."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least important messages that are logged."""

    log_format: Literal["json", "console"] = "json"
    """One JSON object per line, or lines for people."""

    @field_validator("log_level", mode="before")
    @classmethod
    def _in_small_letters(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("namespaces", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value
