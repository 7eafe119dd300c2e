"""CloudEvents 1.0 in binary mode: the event's attributes as message properties, the payload as it is.

Prefix and names as in the Kafka protocol binding (CloudEvents 1.0.2, section 3.2), the closest relative of Pulsar that
has one; `partitionkey` is the Partitioning extension, `traceparent` the Distributed Tracing extension.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from bento_outbox.envelope import Envelope, rfc3339
from bento_outbox.errors import MisuseError
from bento_outbox.headers import CAUSATION_ID, CORRELATION_ID, REQUEUED_AT

PREFIX = "ce_"
EXTENSIONS = {"traceparent": "traceparent", "tracestate": "tracestate"} | {
    CORRELATION_ID: "correlationid",
    CAUSATION_ID: "causationid",
    REQUEUED_AT: "requeuedat",
}
_PUNCTUATION = "-._~:/?#[]@!$&'()*+,;="
_URI_REFERENCE = re.compile(rf"([A-Za-z0-9{re.escape(_PUNCTUATION)}]|%[0-9A-Fa-f]{{2}})+")


def check_source(template: str) -> str:
    """The template, when it makes sources: a URI reference in which {tenant} stands for the tenant's id.

    Raises MisuseError.
    """
    if not _URI_REFERENCE.fullmatch(template.replace("{tenant}", "tenant")):
        raise MisuseError(
            f"CloudEvents source {template!r} is no URI reference: write one such as /tenants/{{tenant}}, "
            f"where {{tenant}} stands for the tenant's id"
        )
    return template


def source_of(event: Envelope, template: str) -> str:
    """The event's source, by a template that `check_source` has taken."""
    return template.replace("{tenant}", quote(event.tenant_id, safe=""))


def cloudevents_properties(event: Envelope, *, source: str) -> dict[str, str]:
    """The properties that make a message of `event` a CloudEvent.

    source: URI reference of the producing context, such as `/shops/acme`; with the id it identifies the event.
    """
    attributes = {
        "specversion": "1.0",
        "id": str(event.id),
        "source": source,
        "type": event.type,
        "subject": event.aggregate_id,
        "partitionkey": event.key,
        "tenantid": event.tenant_id,
    }
    if (created := event.created_in_utc) is not None:
        attributes["time"] = rfc3339(created)
    if event.schema_id is not None:
        version = "" if event.schema_ver is None else f":{event.schema_ver}"
        attributes["dataschema"] = f"urn:schema:{quote(event.schema_id, safe=_PUNCTUATION)}{version}"
    attributes |= {EXTENSIONS[name]: value for name, value in event.headers.items() if name in EXTENSIONS}
    return {f"{PREFIX}{name}": value for name, value in attributes.items()} | {"content-type": "application/json"}
