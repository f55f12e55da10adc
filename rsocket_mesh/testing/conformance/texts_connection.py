"""The requirements about connections, C-01 to C-65, in their order: sign, section, text.

Data of `catalogue`. Signs: `+` good path, `-` malformed or hostile input, `p` the same where the
specification leaves the reaction open; a `?` behind it marks custom that the text does not fix.
Source: RSocket Protocol 1.0, each with its section.
"""

from __future__ import annotations

from typing import Final

Text = tuple[str, str, str]

CONNECTION: Final[tuple[Text, ...]] = (
    # -- framing and header
    ("+", "Framing Format", "On TCP a frame goes behind its own length in three bytes."),
    ("+", "Framing Protocol Usage", "On WebSocket a frame is one binary message, without length."),
    ("+", "Framing Format", "However the byte stream is cut, the same frames come out."),
    ("+", "Transport Protocol", "Frames that arrive together are all handled, in their order."),
    ("+", "Max Frame Size", "16,777,215 bytes fit into one frame; a longer one is never begun."),
    ("p", "Max Frame Size", "A length above the receiver's limit ends the connection unread."),
    ("p", "Frame Header Format", "A frame too short for a header ends the connection."),
    ("-", "Transport Protocol", "Half a frame at the end is dropped and all streams fail."),
    ("+", "Frame Header Format", "Numbers are big-endian both ways."),
    ("p", "Frame Header Format", "A set top bit of the stream id does not alias another stream."),
    ("+", "Frame Header Format", "Undefined flag bits are sent as 0 and change nothing if set."),
    ("-", "Handling Ignore Flag", "An unknown type with the ignore flag is dropped."),
    ("-", "Handling Ignore Flag", "Without it: CONNECTION_ERROR and the end, or nothing at all."),
    ("-", "Extension Frame", "An unknown extended type goes by the same ignore rule."),
    ("-", "Frame Header Format", "Type 0x00 counts as an unknown type."),
    ("p", "Handling Ignore Flag", "A body too short for its type ends the connection."),
    # -- metadata and data
    ("+", "Metadata Optional Header", "With M set, metadata stands behind its 3-byte length."),
    ("+", "Metadata Optional Header", "Without M there is no length: the whole rest is data."),
    ("+", "Metadata Optional Header", "Empty metadata and absent metadata are told apart."),
    ("+", "Lease Frame", "Metadata of LEASE and METADATA_PUSH has no length in front."),
    ("-", "Metadata Optional Header", "A metadata length beyond the frame ends the connection."),
    ("-", "Metadata Optional Header", "So does M with fewer than three bytes left."),
    ("-", "Metadata Optional Header", "The same frame with the ignore flag is merely dropped."),
    ("+", "Payload Frame", "A PAYLOAD with NEXT and nothing in it is an item, an empty one."),
    ("+", "Request Response Frame", "A request may have neither metadata nor data."),
    # -- connection establishment
    ("+", "Connection Establishment", "A client's first frame is SETUP or RESUME on stream 0."),
    ("-", "Connection Establishment", "Any other first frame: INVALID_SETUP and the end."),
    ("-", "Connection Establishment", "A first frame on a stream id above 0 is refused likewise."),
    ("+", "Connection Establishment", "No answer to a good SETUP; requests may follow at once."),
    ("+", "Connection Establishment", "Requests right behind SETUP all run, in order."),
    ("-", "Connection Establishment", "Requests behind a refused SETUP never reach a handler."),
    ("-", "Connection Establishment", "A refused SETUP gets a setup error, then the end."),
    ("-?", "Setup Frame", "A keepalive interval or lifetime of 0 is refused: INVALID_SETUP."),
    ("-", "Setup Frame", "An unknown version is refused: INVALID_SETUP or UNSUPPORTED_SETUP."),
    ("p", "Setup Frame", "A MIME type or token longer than the frame is INVALID_SETUP."),
    ("-", "Setup Frame", "A server without resume refuses a resume token: REJECTED_SETUP."),
    ("-", "Handling the Unexpected", "A second SETUP changes nothing and raises no error."),
    ("-", "Handling the Unexpected", "A client ignores SETUP."),
    ("-", "Handling the Unexpected", "A server ignores the setup errors."),
    ("-", "Handling the Unexpected", "An established client ignores the setup errors."),
    ("+", "Connection Establishment", "A setup error fails the connect and all that waits on it."),
    ("p", "Connection Establishment", "Who sends no first frame is disconnected after a time."),
    ("+", "Setup Frame", "The SETUP's payload and MIME types arrive as they were sent."),
    # -- errors, keepalive, metadata push
    ("+", "Error Frame", "Codes from 0x201 go with streams, those below with stream 0."),
    ("+", "Error Frame", "CONNECTION_ERROR fails every stream on both sides."),
    ("+", "Error Frame", "After CONNECTION_CLOSE open streams finish, then the transport closes."),
    ("+", "Error Frame", "Error text is UTF-8 without terminator; bad UTF-8 does no harm."),
    ("-", "Handling the Unexpected", "ERROR on an unknown stream is ignored."),
    ("+", "Keepalive Frame", "A client asks for a sign of life at its interval, idle or busy."),
    ("+", "Keepalive Frame", "KEEPALIVE is answered with its own data, and not asked back."),
    ("-", "Keepalive Frame", "A KEEPALIVE that asks for no answer gets none."),
    ("+", "Keepalive Frame", "A client that hears nothing for the lifetime gives up."),
    ("+", "Keepalive Frame", "Without resume the position in KEEPALIVE is 0."),
    (
        "p",
        "Keepalive Frame",
        "Large KEEPALIVE data is echoed or ends the connection; many do no harm.",
    ),
    ("+", "Metadata Push Frame", "METADATA_PUSH reaches the handler and is not answered."),
    ("-", "Handling the Unexpected", "METADATA_PUSH on a stream is ignored."),
    # -- stream ids
    ("+", "Stream Identifiers", "Clients count 1, 3, 5..., servers 2, 4, 6..., as they send."),
    ("+", "Stream Identifiers", "Both sides may request at once on one connection."),
    (
        "-",
        "Handling the Unexpected",
        "A request on an open stream's id is ignored, the stream lives.",
    ),
    ("p", "Stream Identifiers", "A request with an id of the receiver's parity opens nothing."),
    ("-", "Handling the Unexpected", "A request on stream 0 reaches no handler."),
    (
        "+",
        "Stream Identifiers",
        "After the largest id: no more streams, or wrap and skip open ids.",
    ),
    ("+", "Stream Identifiers", "The id of an ended stream may be requested on again."),
    ("-", "Stream Identifiers", "With all ids in use a new request fails on the spot."),
    ("+", "Stream Sequences and Lifetimes", "An id is not used twice before all are used up."),
)
