"""Every attack at a real broker: the named reason, bounded memory, and nothing left behind.

How long others have to wait meanwhile is measured by `test_isolation`, which needs a quiet machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.figures import MIB
from tests.attacks.arena import SETTLED, Arena, arena, bystander
from tests.attacks.attacks import ATTACKS
from tests.attacks.outcomes import OUTCOMES

# What the broker may grow by besides what the attack is allowed to cost: heaps grow in steps.
SLACK = 2 * MIB
MOST = 64 * MIB  # whatever was sent; hundreds of MiB are no reason to hold as much
AT_MOST = 20.0  # seconds; most attacks have shown all of their reasons within 2
UNDEFEATED = 2.0  # seconds of those against which nothing has to be done


@pytest.fixture(scope="module")
def place() -> Iterator[Arena]:
    with arena() as one, bystander(one) as served:
        yield one
        assert served.phase().calls > 100


def test_every_attack_has_an_outcome() -> None:
    assert OUTCOMES.keys() == ATTACKS.keys()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_with_its_reason_and_leaves_nothing(place: Arena, name: str) -> None:
    descriptors = place.descriptors()
    expected = OUTCOMES[name]
    seconds = AT_MOST if expected.reasons else UNDEFEATED
    result = place.attack(name, seconds, until=expected.reasons)
    missing = [reason for reason in expected.reasons if not result.reasons[reason]]
    assert missing == [], result
    assert any(text.startswith(expected.told) for text in ["", *result.told]), result.told
    assert result.growth <= min(result.allowed(), MOST) + SLACK, result
    place.settle(descriptors, within=SETTLED)
    assert "Traceback" not in "\n".join(place.broker.process.lines("stderr"))
