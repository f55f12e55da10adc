"""`examples.stdlib_search`: the index over a small tree, the service over the real library."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.stdlib_search import LIBRARY, Found, Index, Line, Query
from rsocket_mesh import Invalid, Mesh
from tests.support.processes import Process


@pytest.fixture
def index(tmp_path: Path) -> Index:
    files = {
        "garden.py": "# Apple and pear\napple = 1\nApple = 2\n",
        "shop/fruit.py": "pear\n\napple, pear = 1, 2  # apple\n" + "filler\n" * 50,
        "tests/test_fruit.py": "apple pear",
        "site-packages/other.py": "apple pear",
        "notes.txt": "apple pear",
        "broken.py": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "broken.py").write_bytes(b"caf\xe9 = 'apple'\n")
    index = Index(tmp_path)
    index.build()
    return index


def test_only_the_librarys_own_sources_are_read_whatever_bytes_they_have(index: Index) -> None:
    assert index.files == ["broken.py", "garden.py", "shop/fruit.py"]


def test_a_file_is_found_by_all_its_words_and_by_none_it_lacks(index: Index) -> None:
    assert index.having({"apple"}) == {0, 1, 2}
    assert index.having({"apple", "pear"}) == {1, 2}
    assert index.having({"apple", "cherry"}) == set()


def test_a_short_file_that_says_it_often_is_better_than_a_long_one(index: Index) -> None:
    assert index.score(1, {"apple"}) > index.score(2, {"apple"})


def test_lines_tell_their_number_and_how_many_of_the_words_they_have(index: Index) -> None:
    assert list(index.lines(2, {"apple", "pear"})) == [
        (1, Line("shop/fruit.py", 1, "pear")),
        (2, Line("shop/fruit.py", 3, "apple, pear = 1, 2  # apple")),
    ]


@pytest.fixture(scope="module")
def process(start: Callable[..., Process]) -> Process:
    return start("stdlib_search")


@pytest.mark.usefixtures("process")
class TestAtWork:
    async def test_the_best_files_come_with_the_lines_that_say_why(self, mesh: Mesh) -> None:
        query = Query("Write FLOW control", limit=3)
        found = await mesh.service("search").request_response("find", query, returns=Found)
        assert found.total >= len(found.hits) > 0
        assert found.searched > 300
        assert [hit.score for hit in found.hits] == sorted(
            (hit.score for hit in found.hits), reverse=True
        )
        assert any(hit.file.startswith("asyncio/") for hit in found.hits)
        for line in found.hits[0].lines:
            assert_is_there(line)

    async def test_every_line_with_all_the_words_is_streamed(self, mesh: Mesh) -> None:
        stream = mesh.service("search").request_stream("matches", "def fnmatch", returns=Line)
        async with stream as matches:
            lines = [line async for line in matches]
        assert [line.file for line in lines if "def fnmatch(" in line.text] == ["fnmatch.py"]
        for line in lines:
            assert_is_there(line)

    async def test_a_caller_may_stop_in_the_middle_of_many_lines(self, mesh: Mesh) -> None:
        stream = mesh.service("search").request_stream("matches", "self", returns=Line, limit=10)
        async with asyncio.timeout(10), stream as matches:
            assert len([line async for line in matches]) == 10

    async def test_what_nobody_wrote_is_not_found(self, mesh: Mesh) -> None:
        query = Query("xyzzyplughxyzzy")
        found = await mesh.service("search").request_response("find", query, returns=Found)
        assert (found.total, found.hits) == (0, [])

    async def test_a_query_without_a_word_is_refused(self, mesh: Mesh) -> None:
        with pytest.raises(Invalid, match="no word"):
            await mesh.service("search").request_response("find", Query(" ?! "))


def assert_is_there(line: Line) -> None:
    lines = (LIBRARY / line.file).read_text(errors="replace").splitlines()
    assert lines[line.number - 1].strip() == line.text
