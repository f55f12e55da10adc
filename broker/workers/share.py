"""The part of the limits that one worker enforces by itself.

Limits of one peer hold wherever the peer is. Of limits on all peers together, the number of
connections is counted by the supervisor, who accepts them; the others are shared out evenly, as the
connections are.
"""

from __future__ import annotations

import msgspec

from broker.config import Config
from broker.memory import default_budget

# Keys of [limits] that bound all peers together, and that no single place could count cheaply.
SHARED = (
    "connections_without_setup",
    "memory_bytes",
    "resume_total_bytes",
    "waiting_bytes",
    "waiting_requests",
)


def share_of(config: Config) -> Config:
    """Return the config of one of the workers of *config*: each has an equal part, rounded up."""
    workers = config.workers.count
    limits = config.limits
    budget = limits.memory_bytes or default_budget()
    limits = msgspec.structs.replace(limits, memory_bytes=budget)
    parts = {name: -(-getattr(limits, name) // workers) for name in SHARED}
    return msgspec.structs.replace(config, limits=msgspec.structs.replace(limits, **parts))
