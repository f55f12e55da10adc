"""The inner loop: a batch of bytes in; frames on other links, and what needs thought, out.

A floor of its own, below `broker.forwarding`, which is built on its classes: it knows the law of
frames and what it has to touch of links, calls and routes (their *cores*), and nothing else.

law        which frame of which stream does what · wheel deadlines without a timer each
cores      what of links, calls and routes the loop touches
relay      the loop: frames of known streams · opening plain requests, the fast way
compiled   the twin of the last three in Cython

The compiled twin is used where it could be built; `RSOCKET_MESH_PURE=1` in the environment asks for
the plain one. `KERNEL` says which it is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING or os.environ.get("RSOCKET_MESH_PURE") == "1":
    from broker.kernel.cores import CallCore, CreditCore, HubCore, LinkCore, RouteCore, TallyCore
    from broker.kernel.relay import relay
else:
    try:
        from broker.kernel.compiled import (
            CallCore,
            CreditCore,
            HubCore,
            LinkCore,
            RouteCore,
            TallyCore,
            relay,
        )
    except ImportError:
        from broker.kernel.cores import (
            CallCore,
            CreditCore,
            HubCore,
            LinkCore,
            RouteCore,
            TallyCore,
        )
        from broker.kernel.relay import relay

KERNEL: Final = "plain" if relay.__module__ == "broker.kernel.relay" else "compiled"

__all__ = [
    "KERNEL",
    "CallCore",
    "CreditCore",
    "HubCore",
    "LinkCore",
    "RouteCore",
    "TallyCore",
    "relay",
]
