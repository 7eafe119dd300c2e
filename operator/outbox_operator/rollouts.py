"""How many tenants get new pods at the same time because of us: because of another image, or another operator.

A change of a tenant's own spec reaches its pods at once, and so does the repair of an edited Deployment. But another
default image, or an operator that builds another pod, would replace the pods of all tenants at the same moment. So
those need a place here, and there are only so many. A change of the spec brings no other image along: until there is a
place, it comes with the image that the pods have. A repair waits where the operator builds another pod, and so has no
manifest of the one that is there.

    waiting ── a place is free ──► rolling ── all pods are new and available ──► done, the next one gets the place
                                      │
                                      └── pods do not become ready: keeps the place

A rollout that fails keeps its place on purpose: an image that does not start stops after that many tenants, which still
deliver with their old pods, and the place comes free as soon as they are well again. One that cannot be begun while the
API server or a webhook does not answer keeps its place, too; one that is refused gives it back. Tenants without a
running pod, or that are to have none, have nothing to lose and take no place; neither do those whose last rollout has
failed, which would keep it whatever we send.
"""

from __future__ import annotations

from collections.abc import Callable

from outbox_operator.keys import DEFAULT_IMAGE_ANNOTATION, POD_HASH_ANNOTATION, Key, Manifest


class Rollouts:
    """The places; `wake` asks for another look at a tenant that waits for one."""

    def __init__(self, places: int, *, wake: Callable[[Key], None]) -> None:
        self._places, self._wake = places, wake
        self._rolling: set[Key] = set()
        self._waiting: dict[Key, None] = {}

    def begin(self, key: Key) -> bool:
        """Whether the pods of this tenant may be replaced now; if not, it is woken when they may."""
        if key not in self._rolling and len(self._rolling) >= self._places:
            self._waiting[key] = None
            return False
        self._waiting.pop(key, None)
        self._rolling.add(key)
        return True

    def found(self, key: Key) -> None:
        """A rollout that somebody before us has begun."""
        self._rolling.add(key)

    def leave(self, key: Key) -> None:
        """This tenant waits no more, and keeps its place if it has one."""
        if key in self._waiting:
            del self._waiting[key]
            self._wake_the_next()

    def end(self, key: Key) -> None:
        """The pods of this tenant are as they should be, or it is gone."""
        if key not in self._rolling and key not in self._waiting:
            return
        self._waiting.pop(key, None)
        self._rolling.discard(key)
        self._wake_the_next()

    def _wake_the_next(self) -> None:
        for following in list(self._waiting)[: max(0, self._places - len(self._rolling))]:
            self._wake(following)

    def count(self) -> tuple[int, int]:
        """How many tenants have a place, and how many wait for one."""
        return len(self._rolling), len(self._waiting)


def is_under_way(deployment: Manifest) -> bool:
    """Whether old pods still wait for new ones."""
    status = deployment.get("status", {})
    observed = status.get("observedGeneration") == deployment["metadata"]["generation"]
    return not observed or status.get("replicas", 0) > status.get("updatedReplicas", 0)


def has_failed(deployment: Manifest) -> bool:
    """Whether the last rollout was given up, for whatever reason."""
    conditions = deployment.get("status", {}).get("conditions", ())
    return any(condition["type"] == "Progressing" and condition["status"] == "False" for condition in conditions)


def needs_a_place(live: Manifest) -> bool:
    """Whether there are pods to lose when they are replaced, and the place would come free again."""
    return bool(live.get("status", {}).get("readyReplicas")) and not has_failed(live)


def pod_hash(deployment: Manifest) -> str | None:
    """From which pod template the Deployment was made."""
    return _annotation(deployment, POD_HASH_ANNOTATION)


def default_image(deployment: Manifest) -> str | None:
    """The default image that it was given, whatever somebody has made of it since; None if it has one of its own."""
    return _annotation(deployment, DEFAULT_IMAGE_ANNOTATION)


def _annotation(deployment: Manifest, name: str) -> str | None:
    found: str | None = deployment["metadata"].get("annotations", {}).get(name)
    return found
