"""A worker of a broker: `python -m broker.workers DESCRIPTOR PARENT`, which only a supervisor runs.

The descriptor is the worker's end of its channel; the number of the process that started it tells
whether that is alive still.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import signal
import socket
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def main() -> None:
    """Serve until the supervisor says stop, or is gone."""
    # A terminal and a service manager send these to the whole group; the supervisor has them, and
    # tells its workers what to do in which order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with(parent)
    import uvloop  # here: it does not exist on Windows, and neither do workers

    from broker.workers.worker import Worker

    async def run() -> int:
        return await Worker(socket.socket(fileno=descriptor)).run()

    sys.exit(uvloop.run(run()))


def _die_with(parent: int) -> None:
    """Have the system kill this process when *parent* ends, where it can do that."""
    if sys.platform != "linux":  # the end of the channel has to do
        return
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    library.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended in between
        sys.exit(1)


if __name__ == "__main__":
    main()
