"""Which OutboxTenants claim the same rows: of two for one tenant in one table, the older delivers, the other says so.

What is compared is what an OutboxTenant says: its namespace, the Secret and the key in it, the schema, the table and
the tenantId. The operator reads no Secrets, so it can't see that two Secrets hold the same URL; and Secrets of the
same name in two namespaces are two Secrets (think of staging and production), so they are never taken for one.

Older is the one with the earlier creationTimestamp; the API server's clock counts whole seconds, so among equals the
uid decides. The order is total and the same for everybody who looks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from outbox_operator.keys import Key, Manifest


class Claim(NamedTuple):
    """Whose rows, from which table."""

    namespace: str
    secret: str
    secret_key: str
    schema: str
    table: str
    tenant_id: str

    @classmethod
    def of(cls, tenant: Manifest) -> Claim:
        spec = tenant["spec"]
        database = spec["database"]
        secret = database["urlSecretRef"]
        return cls(
            namespace=tenant["metadata"]["namespace"],
            secret=secret["name"],
            secret_key=secret["key"],
            schema=database["schema"],
            table=database["table"],
            tenant_id=spec["tenantId"],
        )


class _Age(NamedTuple):
    created: str
    uid: str
    key: Key


class Claims:
    """Every OutboxTenant with what it claims; `wake` asks for a look at one for which another's claim is news."""

    def __init__(self, *, wake: Callable[[Key], None]) -> None:
        self._wake = wake
        self._by_key: dict[Key, tuple[Claim, _Age]] = {}
        self._by_claim: dict[Claim, set[_Age]] = {}

    def put(self, tenant: Manifest) -> None:
        """Takes in a tenant, or how it is now."""
        metadata = tenant["metadata"]
        key = Key(metadata["namespace"], metadata["name"])
        entry = Claim.of(tenant), _Age(metadata["creationTimestamp"], metadata["uid"], key)
        if self._by_key.get(key) != entry:
            self.forget(key)
            self._by_key[key] = entry
            self._by_claim.setdefault(entry[0], set()).add(entry[1])
            for other in self.others(key):
                self._wake(other)

    def forget(self, key: Key) -> None:
        """Drops a tenant that is gone."""
        if (entry := self._by_key.pop(key, None)) is None:
            return
        claim, age = entry
        same = self._by_claim[claim]
        same.discard(age)
        for other in same:
            self._wake(other.key)
        if not same:
            del self._by_claim[claim]

    def others(self, key: Key) -> set[Key]:
        """Who claims the same."""
        return {age.key for age in self._same(key) if age.key != key}

    def winner(self, key: Key) -> Key:
        """Who delivers what `key` claims: mostly itself."""
        return min(self._same(key)).key if self._same(key) else key

    def _same(self, key: Key) -> set[_Age]:
        entry = self._by_key.get(key)
        return self._by_claim[entry[0]] if entry else set()
