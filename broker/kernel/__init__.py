"""The inner loop: a batch of bytes in; frames on other links, and what needs thought, out.

A floor of its own, below `broker.forwarding`, which is built on its classes: it knows the law of
frames and what it has to touch of links, calls and routes (their *cores*), and nothing else.

law        which frame of which stream does what · wheel deadlines without a timer each
cores      what of links, calls and routes the loop touches
relay      the loop: frames of known streams · opening plain requests, the fast way
"""

from broker.kernel.cores import CallCore, CreditCore, HubCore, LinkCore, RouteCore, TallyCore
from broker.kernel.relay import relay

__all__ = ["CallCore", "CreditCore", "HubCore", "LinkCore", "RouteCore", "TallyCore", "relay"]
