"""The requirements about streams and what they carry, C-66 to C-150, in their order.

Data of `catalogue`; the form is that of `texts_connection`.
Source: RSocket Protocol 1.0, its extensions, RSocket Broker Specification 0.1; each names its part.
"""

from __future__ import annotations

from typing import Final

from rsocket_mesh.testing.conformance.texts_connection import Text

STREAMS: Final[tuple[Text, ...]] = (
    # -- interaction models
    ("+", "Stream Sequences", "Request-response: PAYLOAD with NEXT and COMPLETE ends the call."),
    ("-", "Handling the Unexpected", "A response without COMPLETE counts as complete."),
    ("+", "Payload Frame", "A response with COMPLETE only ends the call without an item."),
    ("+", "Stream Sequences", "CANCEL stops the handler; the stream is silent afterwards."),
    ("+", "Handling the Unexpected", "Items that arrive after one's own CANCEL are dropped."),
    ("+", "Stream Sequences", "Fire-and-forget is never answered, whatever happens."),
    ("+", "Flow Control", "A responder never sends more items than it was asked for."),
    ("+", "Flow Control", "Completion and ERROR wait for no credit."),
    ("+", "Flow Control", "Credit adds up, also beyond 2^31-1."),
    ("p", "Request Stream Frame", "An initial request n of 0 or over 2^31-1: ERROR[INVALID]."),
    ("p", "RequestN Frame", "REQUEST_N of 0 or over 2^31-1 adds nothing: ERROR[INVALID]."),
    ("-", "Handling the Unexpected", "REQUEST_N where no items are due is ignored."),
    ("p", "Flow Control", "Items beyond the credit make the requester cancel, not buffer."),
    ("+", "Request Channel Frame", "A channel's requester waits for REQUEST_N before PAYLOAD."),
    ("+", "Stream Sequences", "A channel's responder asks for the items that it wants."),
    ("+", "Stream Sequences", "One half of a channel goes on when the other has completed."),
    ("+", "Request Channel Frame", "A channel request with COMPLETE is an item and the end."),
    ("+", "Stream Sequences", "ERROR ends both halves of a channel, whoever sends it."),
    ("+", "Stream Sequences", "CANCEL by a channel's requester ends both halves."),
    ("+?", "Stream Sequences", "CANCEL by a channel's responder ends the requester's half only."),
    ("-", "Handling the Unexpected", "Items behind a channel requester's COMPLETE are ignored."),
    ("-", "Handling the Unexpected", "A second REQUEST_CHANNEL on the id is ignored."),
    ("p", "Payload Frame", "A PAYLOAD with neither NEXT nor COMPLETE is not delivered."),
    ("-", "Handling the Unexpected", "PAYLOAD and CANCEL of no known stream have no effect."),
    ("+", "Stream Sequences", "A lost connection fails requesters and cancels responders."),
    # -- fragmentation
    ("+", "Fragmentation", "What is too large leaves as a first frame with F and PAYLOADs with N."),
    ("+", "Fragmentation", "All metadata goes before all data, over the fragments."),
    ("+", "Fragmentation", "Reassembly restores metadata and data of every kind of message."),
    ("+", "Fragmentation", "A fragmented item costs one credit, a request one lease unit."),
    ("+", "Fragmentation", "Fragments of different streams may be interleaved."),
    ("+", "Fragmentation", "COMPLETE stands on the last fragment and counts after the item."),
    ("-", "Handling the Unexpected", "A fragment with F and COMPLETE is the last one."),
    ("+", "Fragmentation", "CANCEL between fragments drops them; no handler runs."),
    ("-", "Handling the Unexpected", "A series of fragments without end is ended at a limit."),
    ("-", "Handling the Unexpected", "Fragments of an unknown stream are not kept."),
    ("-", "Handling the Unexpected", "A request on an id in reassembly is never mixed in."),
    ("-", "Fragmentation", "ERROR or loss of the connection releases what was collected."),
    ("p", "Handling the Unexpected", "Many unfinished messages are bounded in sum."),
    (
        "+?",
        "Fragmentation",
        "Fragments but the last have 64 bytes or more; shorter ones are taken.",
    ),
    # -- lease
    ("+", "Lease Semantics", "A client that asked for leases requests nothing before the first."),
    ("+", "Lease Semantics", "So does the server towards such a client."),
    ("+", "Connection Establishment", "A server that accepted the lease flag sends a LEASE."),
    ("+", "Flow Control", "Neither more requests than leased are sent, nor any after the time."),
    ("+", "Lease Frame", "A new LEASE replaces the old one."),
    ("+", "Lease Frame", "A LEASE of 0 stops new requests; open streams go on."),
    ("-", "Flow Control", "A request beyond the lease: ERROR[REJECTED], and no handler."),
    ("p", "Handling the Unexpected", "A LEASE that nobody negotiated changes nothing."),
    # -- resume
    ("+", "Resuming Operation", "Positions grow by the length of the eight tracked types only."),
    ("+", "Resuming Operation", "KEEPALIVE tells the own position; the peer's trims the store."),
    ("+", "Resuming Operation", "After a resume nothing is lost, doubled or out of order."),
    ("+", "Resuming Operation", "Behind RESUME the client is silent until RESUME_OK."),
    ("-", "Resuming Operation", "RESUME without resume or of an unknown token: REJECTED_RESUME."),
    ("-", "Resuming Operation", "RESUME with impossible positions: REJECTED_RESUME."),
    ("-", "Resuming Operation", "After REJECTED_RESUME a client does not try the session again."),
    ("-", "Resuming Operation", "An impossible RESUME_OK ends the session: CONNECTION_ERROR."),
    ("-", "Resuming Operation", "RESUME behind SETUP or RESUME: CONNECTION_ERROR."),
    ("-", "Resuming Operation", "A SETUP with a token in use is not accepted."),
    ("+", "Resuming Operation", "Leases begin anew on a resumed connection."),
    ("p", "Resuming Operation", "A position between frames or in the future ends the session."),
    ("+", "Resuming Operation", "A session that is not resumed in time ends its streams."),
    # -- extensions
    ("+", "Composite Metadata", "Entries are read in order; unknown types are passed over, kept."),
    ("+?", "Composite Metadata", "A MIME text is coded as length - 1: 1 to 128 characters."),
    ("p", "Composite Metadata", "A cut-off entry fails its request, not the connection."),
    ("+", "Well-known MIME Types", "A well-known type is known by its id and by its text."),
    ("+", "Routing", "Routing tags of 0 to 255 bytes pass; one past the end is an error."),
    ("+", "Stream Data MIME Types", "The type of a stream's data overrides that of SETUP."),
    ("-", "Stream Data MIME Types", "Accepted types that a responder sends are ignored."),
    ("+", "Authentication", "Simple authentication: 16-bit length; empty name and password pass."),
    ("-", "Authentication", "A user name past the end, or an empty entry, is refused."),
    (
        "+",
        "Tracing (Zipkin)",
        "Trace entries of 1, 17, 25, 33 bytes are read; shorter are ignored.",
    ),
    # -- broker
    ("+", "Broker: Announcements", "ROUTE_SETUP makes a route, found by name, id and each tag."),
    ("+", "Broker: ROUTE_SETUP", "A second connection of a route id replaces the first."),
    ("+", "Broker: ADDRESS", "ADDRESS is understood alone and in composite metadata."),
    ("-", "Broker: ADDRESS", "More than one of unicast, multicast and shard is refused."),
    (
        "+",
        "Broker: Forwarding",
        "A route is chosen if it has all tags asked for; more don't matter.",
    ),
    ("+", "Broker: Multicast", "Multicast request-response: the first answer or error counts."),
    ("+", "Broker: Multicast", "Multicast streams are merged; one error cancels all."),
    ("-", "Broker: Shard", "A shard request without its key, or with an absent one, is refused."),
    ("+", "Broker: Forwarding", "Data and metadata arrive at the destination unchanged."),
    ("+", "Broker: ROUTE_REMOVE", "A lost destination is withdrawn and its open streams fail."),
    ("-", "Broker: Routing Table", "An update older than the entry it changes is ignored."),
    ("p", "Broker: Framing", "A malformed broker frame harms nothing but itself."),
    ("p", "Broker: Forwarding", "A request that nothing matches is answered within a bound."),
    ("p", "Broker: Forwarding", "In a mesh a request crosses at most one link between brokers."),
    ("+", "Broker: Metadata", "Only a stream's first frame is addressed; the others follow it."),
)
