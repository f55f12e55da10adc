"""One consumer of a paced stream: `python -m tests.acceptance.consumer URL EVERY SIZE`.

Prints `first` with its first item; at the line `report` on stdin it prints, as JSON, how many items
have come, how many numbers were missing, and the largest time between two of them since the last
report.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from rsocket_mesh import connect


class Seen:
    """What has come so far."""

    def __init__(self) -> None:
        self.items = self.lost = 0
        self.expected = 0
        self.largest_gap = 0.0
        self.last = 0.0

    def take(self, number: int) -> None:
        now = time.monotonic()
        if self.items:
            self.largest_gap = max(self.largest_gap, now - self.last)
        self.lost += number - self.expected
        self.expected = number + 1
        self.items += 1
        self.last = now

    def report(self) -> str:
        text = json.dumps({"items": self.items, "lost": self.lost, "gap_s": self.largest_gap})
        self.largest_gap = 0.0
        return text


async def main(url: str, every: float, size: int) -> None:
    seen = Seen()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if sys.stdin.readline().strip() == "report":
            print(seen.report(), flush=True)

    loop.add_reader(sys.stdin, asked)
    async with connect(url, lifetime=120) as mesh:
        bench = mesh.service("bench")
        async with bench.request_stream("paced", every, size, returns=bytes) as items:
            async for item in items:
                seen.take(int.from_bytes(item[:8], "big"))
                if seen.items == 1:
                    print("first", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3])))
