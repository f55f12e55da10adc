"""`examples.files`: whole files or nothing, of any size, in both directions."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest

from examples.files import CHUNK, Offer, Part, Receipt, Seal, pack, unpack
from rsocket_mesh import Invalid, Mesh
from tests.acceptance.figures import peak_resident, reset_peak, resident, say
from tests.support.processes import BrokerProcess, Process, running
from tests.support.waiting import until

MIB = 1024 * 1024
SHA = hashlib.sha256(b"abc").hexdigest()


async def parts_of(parts: Iterable[Part]) -> AsyncIterator[Part]:
    for part in parts:
        yield part


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 20 * CHUNK])
async def test_a_parcel_is_unpacked_as_it_was_packed(tmp_path: Path, size: int) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(range(251)) * (size // 251 + 1))
    with source.open("r+b") as file:
        file.truncate(size)
    into = tmp_path / "into"
    into.mkdir()
    *_, last = [receipt async for receipt in unpack(pack(source), into)]
    assert (into / "source.bin").read_bytes() == source.read_bytes()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert last == Receipt("source.bin", size, size, digest)


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([], "begins with an Offer, not with NoneType"),
        ([b"abc"], "begins with an Offer, not with bytes"),
        ([Offer("a", 3), b"abc"], "ended after 3 bytes, without a Seal"),
        ([Offer("a", 3), b"abc", Seal("0" * 64)], SHA),
        ([Offer("a", 4), b"abc", Seal(SHA)], "promised were 4"),
        ([Offer("a", 2), b"abc", Seal(SHA)], "more than the 2 bytes"),
        ([Offer("a", 3), b"abc", Offer("b", 3)], "promised were 3"),
        *(
            ([Offer(name, 3), b"abc", Seal(SHA)], "no plain file name")
            for name in ("", ".", "..", "../a", "/etc/a", "b/a", "b/", ".hidden", "a\0b")
        ),
    ],
)
async def test_a_parcel_that_is_not_as_promised_leaves_nothing(
    tmp_path: Path, parts: list[Part], says: str
) -> None:
    with pytest.raises(Invalid, match=says):
        async for _ in unpack(parts_of(parts), tmp_path):
            pass
    assert os.listdir(tmp_path) == []


async def test_who_asked_for_one_file_gets_no_other_one(tmp_path: Path) -> None:
    parts = parts_of([Offer("Makefile", 3), b"abc", Seal(SHA)])
    with pytest.raises(Invalid, match="'a' was wanted, and 'Makefile' came"):
        async for _ in unpack(parts, tmp_path, wanted="a"):
            pass
    assert os.listdir(tmp_path) == []


async def test_a_parcel_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    receipts = unpack(parts_of([Offer("a", 6), b"abc", b"def", Seal("")]), tmp_path)
    assert (await anext(receipts)).written == 3
    await receipts.aclose()  # type: ignore[attr-defined]  # a generator, promised as an iterator
    assert os.listdir(tmp_path) == []


@pytest.fixture(scope="module")
def store(start: Callable[..., Process], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("store")
    start("files", "serve", str(directory))
    return directory


def unfinished(directory: Path) -> list[str]:
    return [name for name in os.listdir(directory) if name.endswith(".part")]


async def run_command(environment: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "examples.files", *arguments]
    with running(*command, name="files", env=environment) as process:
        status = await process.ended(within=120)
        process.stop()
        return status, "\n".join(process.lines()), "\n".join(process.lines("stderr"))


async def test_a_file_goes_up_and_comes_down_through_the_broker(
    store: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "a file.bin"
    source.write_bytes(bytes(range(256)) * 20_000)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    into = tmp_path / "into"
    into.mkdir()
    said = f"{source.stat().st_size} bytes, on both sides sha256 {digest}"
    status, output, errors = await run_command(environment, "send", str(source))
    assert (status, output) == (0, said), errors
    assert (store / source.name).read_bytes() == source.read_bytes()
    status, output, errors = await run_command(
        environment, "fetch", source.name, "--into", str(into)
    )
    assert (status, output) == (0, said), errors
    assert (into / source.name).read_bytes() == source.read_bytes()


@pytest.mark.parametrize("name", ["missing.bin", "../secret"])
async def test_what_cannot_be_fetched_is_one_line_and_a_failure(
    store: Path, environment: dict[str, str], name: str
) -> None:
    (store.parent / "secret").write_text("not to be given out")
    status, output, errors = await run_command(environment, "fetch", name)
    assert (status, output) == (1, "")
    assert errors.splitlines()[-1].startswith("Error: Invalid: ")


async def test_an_upload_that_its_caller_leaves_disappears(store: Path, mesh: Mesh) -> None:
    async def endless() -> AsyncIterator[Part]:
        yield Offer("endless.bin", 2**40)
        while True:
            yield bytes(CHUNK)

    upload = mesh.service("files").request_channel("upload", endless(), returns=Receipt)
    async with upload as receipts:
        assert (await anext(receipts)).written == CHUNK
        assert unfinished(store)
    await until(lambda: not unfinished(store), "the unfinished file has been removed")
    assert "endless.bin" not in os.listdir(store)


@pytest.mark.acceptance
async def test_a_file_of_1_gib_leaves_the_brokers_memory_alone(
    broker: BrokerProcess, store: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    source = tmp_path / "big.bin"
    with source.open("wb") as file:
        file.truncate(1024 * MIB)
    pid = broker.process.pid
    before = resident(pid)
    reset_peak(pid)
    status, output, errors = await run_command(environment, "send", str(source))
    assert (status, output[:20]) == (0, "1073741824 bytes, on"), errors
    grown = (peak_resident(pid) - before) / MIB
    (store / "big.bin").unlink()
    say("a file of 1 GiB, growth of the broker's memory", f"{grown:.1f} MiB (at most 32)")
    assert grown < 32
