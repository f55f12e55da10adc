"""Whose end of a connection it is, and how far the connection has come.

Beside `connection`, whose table leads from phase to phase; shells ask for them too.
Source: RSocket Protocol 1.0, "Connection Establishment".
"""

from __future__ import annotations

from enum import IntEnum


class Role(IntEnum):
    """Which side opened the transport; the value is the first of its stream ids."""

    CLIENT = 1
    SERVER = 2


class Phase(IntEnum):
    """How far a connection has come."""

    IDLE = 0  # client: SETUP not sent
    SETTING_UP = 1  # client: SETUP sent, and nothing seen that proves its acceptance
    AWAIT_SETUP = 2  # server
    JUDGING = 3  # server: SETUP read, verdict not given
    OPEN = 4
    DRAINING = 5  # the peer announced its end: open streams finish, nothing new begins
    CLOSED = 6
