"""One provider out of several: power of two choices by load and weight, or by a shard key.

Last stage of a lookup, on the path of every new stream, so `choose` looks at two candidates
however many there are. Randomness comes in as an argument: this room is sans-IO.
Sources: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001); Schindelhauer
and Schomaker, "Weighted Distributed Hash Tables" (2005) for the weighted rendezvous.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from hashlib import blake2b
from math import log
from typing import Final

from broker.routing.candidates import Candidate, Candidates, P, running_weights

DRAW_BITS: Final = 64  # random bits that `choose` uses of one draw: 32 for each of two choices

_LOW: Final = 0xFFFF_FFFF
_U64: Final = 0xFFFF_FFFF_FFFF_FFFF


def choose(candidates: Candidates[P], draw: int) -> Candidate[P] | None:
    """Return the candidate for a new call, or None if no candidate is accepting.

    One is drawn in proportion to the weights and a second from the rest; the second gets the call
    if it would have less in flight for its weight, with the call, than the first has without. So
    idle providers share the calls by weight, and busy ones even out. A provider of weight 0 is a
    reserve: it gets calls only while all that are accepting have weight 0.

    Args:
        draw: `DRAW_BITS` random bits, as a number that is not negative.
    """
    entries = candidates.entries
    count = len(entries)
    if count > 1:
        chosen = _better_of_two(entries, candidates.cumulative, draw)
    elif count == 1:
        chosen = entries[0]
    else:
        return None
    if chosen.provider.accepting:
        return chosen
    # Rare and short-lived (a provider drains or lags), so this may cost time per candidate.
    usable = _usable(entries)
    if len(usable) > 1:
        return _better_of_two(usable, running_weights(usable), draw)
    return usable[0] if usable else None


def _better_of_two(
    entries: tuple[Candidate[P], ...], cumulative: tuple[int, ...] | None, draw: int
) -> Candidate[P]:
    if cumulative is None:
        one = (draw & _LOW) % len(entries)
    else:
        one = bisect_right(cumulative, (draw & _LOW) % cumulative[-1])
    other = (draw >> 32) % (len(entries) - 1)
    first, second = entries[one], entries[other if other < one else other + 1]
    loaded, load = first.provider.in_flight, second.provider.in_flight
    if cumulative is None:  # the same rule where all weigh the same, also nothing
        return second if load < loaded else first
    switch = (load + 1) * first.service.weight <= loaded * second.service.weight
    return second if switch else first


def _usable(entries: tuple[Candidate[P], ...]) -> tuple[Candidate[P], ...]:
    accepting = tuple(entry for entry in entries if entry.provider.accepting)
    return tuple(entry for entry in accepting if entry.service.weight) or accepting


def choose_equal(providers: tuple[P, ...], draw: int) -> P:
    """Return what `choose` would of two or more *providers* that all weigh the same, except that it
    may be one that is not accepting."""
    one = (draw & _LOW) % len(providers)
    other = (draw >> 32) % (len(providers) - 1)
    first, second = providers[one], providers[other if other < one else other + 1]
    return second if second.in_flight < first.in_flight else first


def choose_free(
    candidates: Candidates[P], draw: int, is_free: Callable[[Candidate[P]], bool]
) -> Candidate[P] | None:
    """Return what `choose` would, but only one that *is_free*; None if no candidate is both.

    For candidates with a budget. Those of weight 0 are a reserve here too: they get calls while all
    that are accepting and free have weight 0. Costs time per candidate when the first choice is not
    free.
    """
    chosen = choose(candidates, draw)
    if chosen is None or is_free(chosen):
        return chosen
    usable = _usable(tuple(filter(is_free, candidates.entries)))
    if len(usable) > 1:
        return _better_of_two(usable, running_weights(usable), draw)
    return usable[0] if usable else None


def seed_of(app: str, instance: str) -> int:
    """Return the 64 bits that stand for an instance in `choose_shard`, the same on every broker."""
    return _hash(f"{app}\0{instance}".encode())


def choose_shard(candidates: Candidates[P], key: bytes) -> Candidate[P] | None:
    """Return the candidate that *key* belongs to, or None if no candidate is accepting.

    The names of app and instance decide, neither order nor load: the same key has the same
    provider on every broker for as long as the set of those that accept is the same. When one
    leaves only its own keys move, when one comes it takes only what is then its own. Keys are
    shared by weight; weight 0 is a reserve as in `choose`. Costs time per candidate.
    """
    usable = _usable(candidates.entries)
    if not usable:
        return None
    hashed = _hash(key)
    return max(usable, key=lambda entry: (_score(entry, hashed), entry.service.version))


def _hash(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def _score(entry: Candidate[P], hashed: int) -> float:
    # The finalizer of splitmix64: a plain checksum of name and key would be linear in both, and
    # then the same few names win whatever the key.
    mixed = entry.seed ^ hashed
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _U64
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _U64
    mixed ^= mixed >> 31
    # 52 bits and a half: strictly between 0 and 1 in a float, so the logarithm is never 0.
    return (entry.service.weight or 1) / -log(((mixed >> 12) + 0.5) / (1 << 52))
