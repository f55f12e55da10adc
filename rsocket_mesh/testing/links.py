"""The link of one program to the broker of a mesh in memory, and the faults that a test gives it.

A link lasts over all connections of its program: faults stay when it reconnects, until the test
lifts them. What they do to the bytes is the wires' affair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import FrameType, encode_error
from rsocket_mesh.testing.wires import ALWAYS, Drop, Lane, Wire

if TYPE_CHECKING:
    from rsocket_mesh.testing.switchboard import Switchboard

Side = Literal["client", "broker"]

CUT: Final = "the connection was cut by the test"
DOWN: Final = "the network is down, says the test"


class Link:
    """What one program has to the broker. Faults hold for its next connections too.

    Attributes:
        name: its app; a further instance of the same app has `#2` behind it, and so on.
        app, instance: as it announces itself.
        services: the names of what it serves, as last announced.
        to_broker, to_client: the faults of each direction.
        items_left: how many arrive until it is cut; 0 if it is not to be.
    """

    def __init__(self, board: Switchboard, name: str, app: str, instance: str) -> None:
        self.name = name
        self.app = app
        self.instance = instance
        self.services: tuple[str, ...] = ()
        self.to_broker, self.to_client = Lane(), Lane()
        self.wires: list[Wire] = []
        self.is_down = False
        self.refusal: tuple[int, str] | None = None
        self.refusals_left = 0
        self._board = board
        self.items_left = 0

    def __repr__(self) -> str:
        return f"<Link {self.name}, {'connected' if self.is_connected else 'not connected'}>"

    @property
    def is_connected(self) -> bool:
        """Whether it has a connection just now, accepted or not."""
        return bool(self.wires)

    # -- breaking ---------------------------------------------------------------------------------

    def cut(self) -> None:
        """Break the connection, now: what is under way is lost, and both sides learn of it. The
        library then connects again by itself, as soon as the clock lets it."""
        self._say("is cut")
        self.items_left = 0
        for wire in list(self.wires):
            wire.cut(CUT)

    def cut_after(self, items: int = 1) -> None:
        """Break the connection as `cut` does, right behind this many answers and items that arrive
        over it from now on, in either direction."""
        if items < 1:
            raise ValueError(f"cut_after({items}): at least 1; cut() breaks it now")
        self.items_left = items

    def down(self) -> None:
        """Break the connection, and every new one, until `up`."""
        self.is_down = True
        self._say("is down")
        for wire in list(self.wires):
            wire.cut(DOWN)

    def up(self) -> None:
        """New connections succeed again."""
        self.is_down = False
        self._say("is up")

    def reject(
        self,
        text: str = "FORBIDDEN: the test says no",
        *,
        code: int = ErrorCode.REJECTED_SETUP,
        times: int | None = None,
    ) -> None:
        """Refuse the SETUP of its next connections, as a broker would: with an ERROR that says
        *text*. The library gives up at once, or waits long, for `UNAUTHENTICATED:`, `FORBIDDEN:`
        and `INVALID:`.

        Args:
            times: so many connections; None for all until `heal`.
        """
        self.refusal = (int(code), text)
        self.refusals_left = ALWAYS if times is None else times

    # -- slowing down -----------------------------------------------------------------------------

    def freeze(self) -> None:
        """Let nothing arrive, in either direction, and tell nobody, until `thaw`: a cable that was
        pulled. Each side takes the other for dead after the lifetime of the connection."""
        self._say("is frozen")
        self._hold(self.to_broker, self.to_client, held=True)

    def thaw(self) -> None:
        """Let everything arrive that was held, in order, and all that follows."""
        self._say("has thawed")
        self._hold(self.to_broker, self.to_client, held=False)

    def stop_reading(self) -> None:
        """Let the program take nothing of what it is sent, until `read_on`: a slow reader. What the
        broker does with what piles up is its real code."""
        self._say("reads no more")
        self._hold(self.to_client, held=True)

    def read_on(self) -> None:
        """Let the program have all that it was sent, and all that follows."""
        self._say("reads on")
        self._hold(self.to_client, held=False)

    def delay(self, seconds: float, *, to: Side | None = None) -> None:
        """Let everything arrive so much later, in order; 0 ends it.

        Args:
            to: only what goes to the `client` or to the `broker`; None delays both.
        """
        if not seconds >= 0:
            raise ValueError(f"cannot delay by {seconds} s")
        self._say(f"has a delay of {seconds:g} s")
        for lane in self._lanes(to):
            lane.delay = seconds

    def slow(self, bytes_per_second: float | None, *, to: Side | None = None) -> None:
        """Let no more than so many bytes per second arrive; None ends it.

        Args:
            to: only what goes to the `client` or to the `broker`; None slows each direction.
        """
        if bytes_per_second is not None and not bytes_per_second > 0:
            raise ValueError(f"{bytes_per_second} bytes per second: more than 0, or None")
        for lane in self._lanes(to):
            lane.rate = bytes_per_second

    # -- losing -----------------------------------------------------------------------------------

    def drop(self, frame: str, *, to: Side | None = None, count: int | None = 1) -> None:
        """Lose the next *count* frames of a type, such as `KEEPALIVE`, `PAYLOAD` or `CANCEL`.

        No network loses a frame out of the middle of a connection, but peers with faults do. Not
        for connections with resume, whose two sides count what they have received.

        Args:
            to: only frames that go to the `client` or to the `broker`; None takes both.
            count: None loses all of them until `heal`.
        Raises:
            ValueError: there is no such type.
        """
        try:
            kind = FrameType[frame]
        except KeyError:
            raise ValueError(
                f"no frame type {frame!r}; there are {', '.join(FrameType.__members__)}"
            ) from None
        drop = Drop(kind, ALWAYS if count is None else count)
        for lane in self._lanes(to):
            lane.drops.append(drop)

    def heal(self) -> None:
        """End all faults of this link."""
        self.is_down = False
        self.refusal = None
        self.items_left = 0
        for lane in (self.to_broker, self.to_client):
            lane.delay, lane.rate = 0.0, None
            lane.drops.clear()
        self._say("has no faults any more")
        self._hold(self.to_broker, self.to_client, held=False)

    # -- inside the kit ---------------------------------------------------------------------------

    def refuses(self) -> bytes | None:
        """A SETUP has come: return the ERROR that refuses it, or None."""
        if self.refusal is None or not self.refusals_left:
            return None
        self.refusals_left -= self.refusals_left != ALWAYS
        return encode_error(0, *self.refusal)

    def _lanes(self, to: Side | None) -> tuple[Lane, ...]:
        if to not in (None, "client", "broker"):
            raise ValueError(f"to={to!r}: client, broker or None")
        if to is None:
            return self.to_broker, self.to_client
        return (self.to_client if to == "client" else self.to_broker,)

    def _hold(self, *lanes: Lane, held: bool) -> None:
        for lane in lanes:
            lane.is_held = held
        for wire in list(self.wires):
            wire.near.release()
            wire.far.release()

    def _say(self, text: str) -> None:
        self._board.say(f"fault: {self.name} {text}")
