"""The names of topics. Pure."""

from __future__ import annotations

import re

_PARTITION = re.compile(r"-partition-\d+$")


def full_name(topic: str) -> str:
    """As the broker has it: `t` and `persistent://public/default/t` are one topic, and so one sequence of ids.

    What is no name stays as it is, for the broker to refuse.
    """
    if "://" in topic:
        return topic
    parts = topic.count("/")
    if parts == 0:
        return f"persistent://public/default/{topic}"
    return f"persistent://{topic}" if parts == 2 else topic


def is_partition(topic: str) -> bool:
    """Whether it is one partition of a topic, which then has two names."""
    return _PARTITION.search(topic) is not None
