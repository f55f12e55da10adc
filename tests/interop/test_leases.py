"""rsocket-py as a caller that honours leases.

As a service it leases too, but sends only the part of a time-to-live that is behind the full
seconds, so nothing can be tested with it that is not a race.
"""

from __future__ import annotations

from tests.interop.conftest import Cast
from tests.interop.driving import Peer

PY = "rsocket-py"


def test_a_caller_that_honours_leases_gets_as_many_as_it_needs(cast: Cast):
    # It queues what is beyond, for ever: that all are answered means that it was granted more.
    name = cast.service("ours")
    with Peer(PY, "leased", cast.broker.url("tcp")) as caller:
        calls = [
            caller.begin("response", tags=[f"{name}.echo"], data=str(number))
            for number in range(100)
        ]
        assert [caller.answer(call)["data"] for call in calls] == list(map(str, range(100)))
        _, items = caller.stream(f"{name}.count", total=5)
        assert items == ["1", "2", "3", "4", "5"]
