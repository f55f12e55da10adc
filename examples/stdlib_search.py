"""Full-text search in the sources of Python's standard library: the service `search`.

    python -m examples.stdlib_search

Two ways to ask. `find` answers once, with the best files. `matches` streams every line there is,
and opens the next file only when the caller wants more: a caller that stops after ten lines has
cost ten lines. The handlers are plain functions, since they block on files; the library runs those
in threads, so they delay nobody.
"""

import heapq
import math
import re
import sysconfig
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from examples import BROKER
from rsocket_mesh import Invalid, Service

LIBRARY = Path(sysconfig.get_path("stdlib"))
# What others have installed is no part of it, and its own tests would be most of every answer.
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
WORD = re.compile(r"\w+")
MAX_FILES = 50  # files in one answer of `find`
EXCERPTS = 3  # lines shown of each of them


@dataclass
class Query:
    """Words that must all be in a file, in any order; case does not matter."""

    text: str
    limit: int = 5  # files at most


@dataclass
class Line:
    """One line of the library, without the blanks around it."""

    file: str  # path inside the library
    number: int
    text: str


@dataclass
class Hit:
    """One file and why it was found; a higher score is better."""

    file: str
    score: float
    lines: list[Line]


@dataclass
class Found:
    """The best files, and of how many."""

    hits: list[Hit]
    total: int  # files that have all the words
    searched: int  # files in the index
    milliseconds: float


class Index:
    """An inverted index: for each word the files it stands in, and how often."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[str] = []
        self.lengths: list[int] = []  # words in each file
        self.mean_length = 0.0
        self.counts: dict[str, dict[int, int]] = defaultdict(dict)

    def build(self) -> None:
        """Read every file; takes a second or two."""
        for path in sorted(self.root.rglob("*.py")):
            name = path.relative_to(self.root)
            if LEFT_OUT.isdisjoint(name.parts):
                counted = Counter(words(read(path)))
                for word, count in counted.items():
                    self.counts[word][len(self.files)] = count
                self.files.append(name.as_posix())
                self.lengths.append(counted.total())
        self.mean_length = sum(self.lengths) / max(1, len(self.lengths))

    def having(self, wanted: Iterable[str]) -> set[int]:
        """The numbers of the files that have every one of these words."""
        return set.intersection(*(set(self.counts.get(word, ())) for word in wanted))

    def score(self, file: int, wanted: Iterable[str]) -> float:
        """How much *file* is about these words, by the formula that is known as BM25."""
        length = self.lengths[file] / self.mean_length
        score = 0.0
        for word in wanted:
            files_with_it = self.counts[word]
            rarity = math.log(1 + len(self.files) / len(files_with_it))
            score += rarity * 2.2 / (1 + (0.3 + 0.9 * length) / files_with_it[file])
        return score

    def lines(self, file: int, wanted: set[str]) -> Iterator[tuple[int, Line]]:
        """The lines of *file* with any of these words, each with how many of them it has."""
        name = self.files[file]
        for number, text in enumerate(read(self.root / name).splitlines(), start=1):
            if count := len(wanted.intersection(words(text))):
                yield count, Line(name, number, text.strip())


def words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def asked(text: str) -> set[str]:
    wanted = set(words(text))
    if not wanted:
        raise Invalid(f"no word to search for in {text!r}")
    return wanted


search = Service("search", version="1.0.0", description="Full text of Python's standard library")
index = Index(LIBRARY)


@search.request_response(idempotent=True)
def find(query: Query) -> Found:
    """The best files for a query, each with the lines that say why."""
    began = time.perf_counter()
    wanted = asked(query.text)
    files = index.having(wanted)
    best = heapq.nlargest(
        min(query.limit, MAX_FILES), files, key=lambda file: (index.score(file, wanted), -file)
    )
    hits = []
    for file in best:
        lines = heapq.nlargest(EXCERPTS, index.lines(file, wanted), key=lambda found: found[0])
        score = round(index.score(file, wanted), 2)
        hits.append(Hit(index.files[file], score, [line for _, line in lines]))
    milliseconds = round(1000 * (time.perf_counter() - began), 2)
    return Found(hits, len(files), len(index.files), milliseconds)


@search.request_stream
def matches(text: str) -> Iterator[Line]:
    """Every line that has all these words, file by file."""
    wanted = asked(text)
    for file in sorted(index.having(wanted)):
        for count, line in index.lines(file, wanted):
            if count == len(wanted):
                yield line


if __name__ == "__main__":
    index.build()
    search.run(BROKER)
