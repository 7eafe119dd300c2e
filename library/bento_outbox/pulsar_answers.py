"""What Pulsar's client answers, and whose fault it is: an outage, the event's, or its topic's.

By name, since some answers of the C++ client have no name in the Python enum. Anything not listed is the fault of the
event or of its topic.
"""

from __future__ import annotations

from bento_outbox.errors import BusUnavailable

_REASONS = {
    "BrokerUnreachable": (
        "AlreadyClosed ConnectError Disconnected Interrupted LookupError NotConnected ReadError RetryableError "
        "ServiceUnitNotReady Timeout TooManyLookupRequestException"
    ),
    "BrokerAuthenticationFailed": "AuthenticationError AuthorizationError ErrorGettingAuthenticationData",
    "BrokerRefused": (
        "BrokerMetadataError BrokerPersistenceError MemoryBufferIsFull ProducerBlockedQuotaExceededError "
        "ProducerBlockedQuotaExceededException ProducerBusy ProducerFenced ProducerQueueIsFull TopicTerminated"
    ),
}
OUTAGES = {name: reason for reason, names in _REASONS.items() for name in names.split()}
NOT_ENCODABLE = "NotEncodable"
"""Not an answer, but what keeps us from asking: text without UTF-8, such as half a surrogate pair."""
PERMANENT = {
    NOT_ENCODABLE: "the message cannot be encoded in UTF-8",
    "MessageTooBig": "the message is larger than the broker's limit",
    "InvalidTopicName": "the topic name is not valid",
    "InvalidMessage": "the broker calls the message invalid",
}


def unavailable(service_url: str, result: str, topic: str, *, doubts: str = "") -> BusUnavailable:
    """The answer as an outage, in a sentence that names what to look at. doubts: what else 'unreachable' may mean."""
    where = f"Pulsar at {service_url}"
    namespace = "/".join(topic.removeprefix("persistent://").split("/")[:2])
    if result == "TopicNotFound":
        return BusUnavailable(
            f"{where} has no topic {topic}, or no namespace {namespace}: create it",
            reason="PulsarNamespaceNotFound",
        )
    if result in ("ProducerBusy", "ProducerFenced"):
        return BusUnavailable(
            f"{where} keeps topic {topic} for another producer, which is exclusive, such as that of a projector with "
            f"delivery.guarantee ExactlyOnce ({result}): leave publishing to it, or choose another topic",
            reason="BrokerRefused",
        )
    reason = OUTAGES.get(result, "BrokerRefused")
    sentence = {
        "BrokerUnreachable": f"{where} cannot be reached{doubts}",
        "BrokerAuthenticationFailed": f"{where} does not let us publish to {topic}: check the credentials",
    }.get(reason, f"{where} refuses topic {topic}")
    return BusUnavailable(f"{sentence} ({result})", reason=reason)


def is_topics_fault(result: str) -> bool:
    """Whether another topic of the same broker may still be of use. One that rows chose must not stop the others."""
    return result == "AuthorizationError" or OUTAGES.get(result, "BrokerRefused") == "BrokerRefused"
