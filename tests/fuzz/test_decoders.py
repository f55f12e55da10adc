"""Every decoder, with the corpus, with mutations of it and with bytes at random.

What `make fuzz` ever found lies in `corpus/` and is replayed here for good. Mutations are derived
from the test's own name (derandomized), so that a run means the same everywhere; the long runs are
where luck belongs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.decoders import DECODERS
from tests.fuzz.seeds import CORPUS, inputs

EXAMPLES = 150  # mutations per decoder; a session costs up to a millisecond

REPLAYED = [
    pytest.param(name, path, id=f"{name}-{path.name}") for name in DECODERS for path in inputs(name)
]


@pytest.mark.parametrize(("name", "path"), REPLAYED)
def test_only_documented_errors_come_out_for_the_corpus(name: str, path: Path) -> None:
    DECODERS[name](path.read_bytes())


def test_every_decoder_has_a_corpus_and_every_corpus_a_decoder() -> None:
    assert sorted(DECODERS) == sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
    assert all(inputs(name) for name in DECODERS)


def mutations(name: str) -> st.SearchStrategy[bytes]:
    """Inputs of the corpus, cut, joined and bent; and bytes at random."""
    seeds = st.sampled_from([path.read_bytes() for path in inputs(name)])
    noise = st.binary(max_size=8)

    @st.composite
    def bent(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(seeds))
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, len(data)))
            end = draw(st.integers(at, min(len(data), at + 8)))
            data[at:end] = draw(noise)
        return bytes(data)

    @st.composite
    def joined(draw: st.DrawFn) -> bytes:
        left, right = draw(seeds), draw(seeds)
        return left[: draw(st.integers(0, len(left)))] + right[draw(st.integers(0, len(right))) :]

    return st.one_of(bent(), joined(), st.binary(max_size=64))


@pytest.mark.parametrize("name", DECODERS)
def test_only_documented_errors_come_out_for_mutations(name: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations(name))
    def run(data: bytes) -> None:
        DECODERS[name](data)

    run()
