"""Who is connected to a mesh in memory, and what passes: all links and wires, seen together.

Stands on `links` and `wires`. It makes the wires, says whose each is once its SETUP has passed, and
shows the frames to the record. It looks at the broker's own books to learn who got a call, and
changes nothing there.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rsocket_mesh.errors import ErrorCode, Invalid, RemoteProtocolError, StreamError
from rsocket_mesh.protocol.announce import Announcement, decode_announcement
from rsocket_mesh.protocol.frames import (
    ERROR,
    KEEPALIVE,
    REQUEST_FNF,
    RESUME,
    RESUME_OK,
    SETUP,
    Setup,
    decode_error,
    decode_request,
    decode_resume,
    decode_resume_ok,
    decode_setup,
    encode_error,
    peek,
)
from rsocket_mesh.protocol.metadata import ANNOUNCE, COMPOSITE, find_entry
from rsocket_mesh.testing.links import DOWN, Link
from rsocket_mesh.testing.record import Record
from rsocket_mesh.testing.sessions import MODELS, SessionRecord, services_in
from rsocket_mesh.testing.wires import ALWAYS, End, Wire
from rsocket_mesh.transport.memory import MemoryTransport

if TYPE_CHECKING:
    from broker.forwarding.hub import Hub

# What the library calls an instance that nobody has named: another name in every run.
RANDOM: Final = re.compile(r".+-[0-9a-f]{8}")


@dataclass(slots=True)
class Rejection:
    """Calls are refused with *error*, *left* times."""

    error: StreamError
    left: int


class Switchboard:
    """All links and wires of one mesh.

    Attributes:
        links: by name, in the order of their first connection.
        hub: of the broker that runs; None while there is none.
        rejections: what calls to a route are refused with.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.links: dict[str, Link] = {}
        self.hub: Hub | None = None
        self.say = record.say
        self.rejections: dict[str, Rejection] = {}
        self._sessions: dict[int, SessionRecord] = {}  # by the id that the broker has for them
        self._by_token: dict[bytes, SessionRecord] = {}

    def pair(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        near: tuple[int, int],
        far: tuple[int, int],
    ) -> tuple[MemoryTransport, MemoryTransport]:
        """Make both ends of a connection; a `rsocket_mesh.transport.memory.Pair`."""
        wire = Wire(self, loop, name, near, far)
        return wire.near, wire.far

    def link(self, app: str, instance: str = "") -> Link:
        """Return the link of *instance*; of whichever comes first if none is named. Makes it."""
        for link in self.links.values():
            if link.app == app and (not instance or link.instance in ("", instance)):
                link.instance = link.instance or instance
                break
        else:
            count = sum(link.app == app for link in self.links.values()) + 1
            name = app if count == 1 else f"{app}#{count}"
            link = self.links[name] = Link(self, name, app, instance)
        if RANDOM.fullmatch(instance):
            self.record.aliases.setdefault(instance, link.name)
        return link

    def rejects(self, route: str) -> StreamError | None:
        """Return what this call to *route* is refused with; None lets it pass."""
        rejection = self.rejections.get(route) or self.rejections.get(route.rpartition(".")[0])
        if rejection is None or not rejection.left:
            return None
        rejection.left -= rejection.left != ALWAYS
        return rejection.error

    def close(self) -> None:
        """The mesh is over: so are the calls that still run."""
        for session in self._sessions.values():
            session.lose()

    # -- what the wires call ----------------------------------------------------------------------

    def passes(self, wire: Wire, end: End, frame: bytes) -> bool:
        """A frame was sent over *wire* to *end*: return whether it goes on its way."""
        kind = peek(frame)[1]
        if kind == KEEPALIVE:
            return True
        if end is wire.near:
            if kind in MODELS:
                self._placed(wire, frame)
            return True
        if wire.session is None:
            if kind == SETUP:
                return self._set_up(wire, frame)
            if kind == RESUME:
                return self._resume(wire, frame)
        if wire.session is None:
            return True
        goes_on, error = wire.session.sent(frame)
        if error is not None:
            wire.answer(encode_error(peek(frame)[0], *error.to_wire()))
        return goes_on

    def arrived(self, wire: Wire, end: End, frame: bytes) -> None:
        """A frame is about to be delivered at *end*."""
        session = wire.session
        if session is None or end is not wire.near:
            return
        stream_id, kind, _ = peek(frame)
        if kind == KEEPALIVE:
            return
        if stream_id:
            session.received(frame)
        elif kind == RESUME_OK:
            session.up.at = decode_resume_ok(frame)
        elif kind == ERROR and wire.link is not None:
            told = decode_error(frame)
            name = ErrorCode(told.code).name if told.code in list(ErrorCode) else hex(told.code)
            self.say(f"{wire.link.name} is told {name}: {told.text}")
            self._forget_token(session)

    def ended(self, wire: Wire) -> None:
        """The connection of *wire* is over."""
        link, session = wire.link, wire.session
        if link is None or session is None:
            return
        link.wires.remove(wire)
        error = wire.near.error
        self.say(f"{link.name} is disconnected{f': {_words(error)}' if error is not None else ''}")
        if error is None:
            self._forget_token(session)
        if session not in self._by_token.values():  # nothing can go on with it
            session.lose()

    # -- sessions ---------------------------------------------------------------------------------

    def _set_up(self, wire: Wire, frame: bytes) -> bool:
        try:
            setup = decode_setup(frame)
        except RemoteProtocolError:
            return True  # the broker's to judge
        announced = _announced(setup)
        link = self.link(announced.app, announced.instance)
        link.services = tuple(service.name for service in announced.services)
        for old in list(self._by_token.values()):  # the session that this one comes after
            if self._belongs(old, link):
                self._forget_token(old)
                old.lose()
        wire.link = link
        link.wires.append(wire)
        what = f", serves {', '.join(link.services)}" if link.services else ""
        self.say(f"{link.name} connects{what}")
        wire.session = SessionRecord(
            self.record,
            link.name,
            setup,
            self.rejects,
            lambda raw: self._announce(link, raw),
        )
        if link.is_down:
            wire.cut(DOWN)
            return False
        refusal = link.refuses()
        if refusal is not None:
            wire.refuse(refusal)
            return False
        self._meet_broker(wire, wire.session)
        if setup.resume_token is not None:
            self._by_token[setup.resume_token] = wire.session
        return True

    def _forget_token(self, session: SessionRecord) -> None:
        self._by_token = {t: s for t, s in self._by_token.items() if s is not session}

    def _belongs(self, session: SessionRecord, link: Link) -> bool:
        peer = session.broker_link
        return peer is not None and (peer.app, peer.instance) == (link.app, link.instance)

    def _meet_broker(self, wire: Wire, session: SessionRecord) -> None:
        links = self.hub.links.values() if self.hub is not None else ()
        for broker_link in reversed(list(links)):
            if broker_link.transport is wire.far:
                session.broker_link = broker_link
                self._sessions[broker_link.id] = session
                return

    def _resume(self, wire: Wire, frame: bytes) -> bool:
        try:
            asked = decode_resume(frame)
        except RemoteProtocolError:
            return True
        session = self._by_token.get(asked.token)
        if session is None or session.broker_link is None:
            return True
        peer = session.broker_link
        link = wire.link = self.link(peer.app, peer.instance)
        wire.session = session
        link.wires.append(wire)
        session.down.at = asked.last_server_position
        self.say(f"{link.name} resumes its session")
        if link.is_down:
            wire.cut(DOWN)
            return False
        return True

    def _announce(self, link: Link, raw: bytes) -> None:
        services = services_in(raw)
        if services is not None and services != link.services:
            link.services = services
            self.say(f"{link.name} now serves {', '.join(services) or 'nothing'}")

    # -- who works on a call ----------------------------------------------------------------------

    def _placed(self, wire: Wire, frame: bytes) -> None:
        """The broker has sent a request to the program at *wire*: find out whose it is."""
        if wire.session is None or wire.link is None or wire.session.broker_link is None:
            return
        leg = wire.session.broker_link.streams.get(peek(frame)[0])
        if leg is not None:
            made = leg[3]
            session = self._sessions.get(made.caller.id)
            call = session.running(made.caller_id) if session is not None else None
            if call is not None:
                self.record.reach(call, wire.link.name)
        elif peek(frame)[1] == REQUEST_FNF:  # which the broker forgets as it passes it on
            data = decode_request(frame).data
            for call in self.record.fired:
                if call.data == data and call.route.rpartition(".")[0] in wire.link.services:
                    self.record.fired.remove(call)
                    self.record.reach(call, wire.link.name)
                    return


def _announced(setup: Setup) -> Announcement:
    if setup.metadata is not None and setup.metadata_mime == COMPOSITE:
        try:
            entry = find_entry(setup.metadata, ANNOUNCE)
            if entry is not None:
                return decode_announcement(entry)
        except Invalid:
            pass  # the broker will say so
    return Announcement("anonymous")


def _words(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
