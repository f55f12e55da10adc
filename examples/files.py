"""Files of any size, with checksums, in constant memory: the service `files` and its two callers.

    python -m examples.files serve DIRECTORY      take files into DIRECTORY, and give them out
    python -m examples.files send PATH            upload a file
    python -m examples.files fetch NAME           download it into the current directory

A file travels as a *parcel*: an `Offer`, the bytes in chunks, and a `Seal` with their SHA-256. Each
side computes the checksum by itself, and a file appears under its name only when the two agree.
Nothing here counts memory or waits for a buffer: `pack` is a generator that reads the next chunk
when it is asked for, `unpack` asks for it when the one before is written, and everything between
the two carries that demand. A slow disk at one end makes the other end read slowly.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from examples import BROKER
from rsocket_mesh import Invalid, RSocketError, Service, connect

CHUNK = 60 * 1024  # bytes; with what is put around it, a chunk fits into one frame of 64 KiB
PREFETCH = 16  # chunks that a download has under way at most: 1 MiB
RECEIPT_EVERY = 16  # chunks between two receipts


class Offer(msgspec.Struct, tag=True):
    """The head of a parcel: a plain file name, and the size in bytes."""

    name: str
    size: int


class Seal(msgspec.Struct, tag=True):
    """The end of a parcel: the SHA-256 of all the bytes, in hexadecimal."""

    sha256: str


Part = Offer | bytes | Seal


class Receipt(msgspec.Struct):
    """What has been written so far; the last receipt of a parcel has the checksum."""

    name: str
    size: int  # bytes
    written: int  # bytes
    sha256: str = ""


async def pack(path: Path) -> AsyncIterator[Part]:
    """Read *path* chunk by chunk, as somebody asks for them."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        yield Offer(path.name, os.fstat(file.fileno()).st_size)
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            digest.update(chunk)
            yield chunk
    yield Seal(digest.hexdigest())


async def unpack(
    parts: AsyncIterator[Part], directory: Path, wanted: str | None = None
) -> AsyncIterator[Receipt]:
    """Write a parcel into *directory*; a file of the same name there is replaced.

    Whoever has asked for a file says which in *wanted*, and gets no other one.
    Raises `Invalid` if the parcel is not as promised. Then, as after any other failure or when the
    sender leaves, nothing of it stays behind.
    """
    offer = await anext(parts, None)
    if not isinstance(offer, Offer):
        raise Invalid(f"a parcel begins with an Offer, not with {type(offer).__name__}")
    if wanted not in (None, offer.name):
        raise Invalid(f"{wanted!r} was wanted, and {offer.name!r} came")
    target = directory / plain_name(offer.name)
    unfinished = directory / f".{os.urandom(8).hex()}.part"
    digest, written, chunks = hashlib.sha256(), 0, 0
    try:
        with unfinished.open("xb") as file:
            async for part in parts:
                if not isinstance(part, bytes):
                    break
                await asyncio.to_thread(file.write, part)
                digest.update(part)
                written, chunks = written + len(part), chunks + 1
                if written > offer.size:
                    raise Invalid(f"{offer.name}: more than the {offer.size} bytes of the offer")
                if chunks % RECEIPT_EVERY == 1:
                    yield Receipt(offer.name, offer.size, written)
            else:
                raise Invalid(f"{offer.name}: ended after {written} bytes, without a Seal")
        if part != Seal(digest.hexdigest()) or written != offer.size:
            raise Invalid(
                f"{offer.name}: {written} bytes arrived with SHA-256 {digest.hexdigest()}; "
                f"promised were {offer.size} and {part}"
            )
        unfinished.replace(target)
        yield Receipt(offer.name, offer.size, written, digest.hexdigest())
    finally:
        unfinished.unlink(missing_ok=True)


def plain_name(name: str) -> str:
    """Return *name*, or raise `Invalid` if it could lead out of a directory or hides in it."""
    if not name or Path(name).name != name or name.startswith(".") or "\0" in name:
        raise Invalid(f"{name!r} is no plain file name")
    return name


def service(directory: Path) -> Service:
    """The service that keeps its files in *directory*."""
    files = Service("files", version="1.0.0", description="Files of any size, with checksums")

    @files.request_channel
    def upload(parts: AsyncIterator[Part]) -> AsyncIterator[Receipt]:
        """Take a parcel; confirm what is written, about once per MiB."""
        return unpack(parts, directory)

    @files.request_stream
    def download(name: str) -> AsyncIterator[Part]:
        """Give out a file as a parcel."""
        path = directory / plain_name(name)
        if not path.is_file():
            raise Invalid(f"there is no file {name!r}")
        return pack(path)

    return files


async def send(path: Path) -> Receipt:
    """Upload *path*, showing progress; return the receipt with the checksum of both sides."""
    async with connect(BROKER) as mesh:
        files = mesh.service("files")
        async with files.request_channel("upload", pack(path), returns=Receipt) as receipts:
            return await show_progress(receipts)


async def fetch(name: str, directory: Path) -> Receipt:
    """Download *name* into *directory*, showing progress; return the receipt."""
    async with connect(BROKER) as mesh:
        files = mesh.service("files")
        stream = files.request_stream("download", name, returns=Part, prefetch=PREFETCH)
        async with stream as parts:
            return await show_progress(unpack(parts, directory, wanted=name))


async def show_progress(receipts: AsyncIterator[Receipt]) -> Receipt:
    """Draw a bar that follows the receipts; return the last."""
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    receipt = None
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        async for receipt in receipts:
            bar.update(
                task, description=receipt.name, completed=receipt.written, total=receipt.size
            )
    if receipt is None or not receipt.sha256:
        raise Invalid("the service ended without a receipt for the whole file")
    return receipt


@click.group(help="Files of any size through the broker in $RSOCKET_MESH_BROKER, with checksums.")
def main() -> None:
    pass


DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@main.command("serve", help="Take files into DIRECTORY, and give out those that are there.")
@click.argument("directory", type=DIRECTORY)
def serve_command(directory: Path) -> None:
    service(directory).run(BROKER, app="files")


@main.command("send", help="Upload the file PATH.")
@click.argument("path", type=FILE)
def send_command(path: Path) -> None:
    report(send(path))


@main.command("fetch", help="Download the file NAME.")
@click.argument("name")
@click.option("--into", "directory", type=DIRECTORY, default=".", help="Default: here.")
def fetch_command(name: str, directory: Path) -> None:
    report(fetch(name, directory))


def report(transfer: Coroutine[None, None, Receipt]) -> None:
    try:
        receipt = asyncio.run(transfer)
    except RSocketError as exc:
        raise click.ClickException(f"{type(exc).__name__}: {exc}") from None
    click.echo(f"{receipt.written} bytes, on both sides sha256 {receipt.sha256}")


if __name__ == "__main__":
    main()
