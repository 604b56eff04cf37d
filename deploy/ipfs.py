"""Look after content by hand: `tribute ipfs`."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from rich.text import Text

from ipfs.car import read_car, write_car
from ipfs.cid import Cid
from ipfs.dag import DEFAULT_MAX_BYTES, Deadline, Entry, FileReader, reachable
from ipfs.errors import BlockError, FormatError, InputError, LimitError
from ipfs.pins import DEFAULT_PIN
from ipfs.select import open_store
from ipfs.store import BlockStore, Store
from marketplace.errors import ChainError
from marketplace.keeping import DEFAULT_KEPT_ROUNDS, project_of, released
from marketplace.terminal import (
    DEFAULT_HOME,
    HomeOption,
    IpfsOption,
    JsonOption,
    Output,
    RpcOption,
    open_chain,
)

if TYPE_CHECKING:
    from marketplace.chain import Chain

__all__ = ["ipfs_app", "release_rounds"]

Progress = Callable[[int, int], None]

_BATCH_BYTES = 1 << 24
_PART_BYTES = 1 << 20
_NO_TIME = float("inf")
_CHAIN_S = 3.0

CidArgument = Annotated[str, typer.Argument(help="CID, with /NAME for a file in a directory.")]
NameOption = Annotated[str, typer.Option("--name", help="Name that keeps it.")]
TimeoutOption = Annotated[float, typer.Option(help="Seconds until all of it must be there.")]
MaxOption = Annotated[int, typer.Option(help="Bytes that it may have at most.", min=1)]

ipfs_app = typer.Typer(no_args_is_help=True, help="Keep, fetch and serve content by its CID.")


def _open(home: Path, ipfs: list[str] | None) -> Store:
    return open_store(home / "ipfs", ipfs or ())


def _local(home: Path) -> BlockStore:
    return BlockStore(home / "ipfs")


class _Watched(io.FileIO):
    """Tell how much of a file was read."""

    def __init__(self, file: Path, progress: Progress) -> None:
        super().__init__(file)
        self._progress = progress
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        part = super().read(-1 if size is None else size) or b""
        self._progress(self.tell(), self._size)
        return part


@ipfs_app.command("add")
def add(
    path: Annotated[Path, typer.Argument(help="File, folder of files, or - for standard input.")],
    home: HomeOption = DEFAULT_HOME,
    ipfs: IpfsOption = None,
    name: NameOption = DEFAULT_PIN,
    pin: Annotated[bool, typer.Option(help="Keep it; what is not kept, gc frees.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Store a file or folder and print its CID. Interrupted, it leaves what gc frees."""
    out, store = Output(as_json), _open(home, ipfs)
    kept = name if pin else None
    with out.bar(f"adding {path.name}") as progress:
        if str(path) == "-":
            cid = store.put(sys.stdin.buffer, pin=kept)
        elif path.is_dir():
            with _files(path, progress) as files:
                cid = store.put_directory(files, pin=kept)
        elif path.is_file():
            with _Watched(path, progress) as file:
                cid = store.put(_binary(file), pin=kept)
        else:
            raise InputError(f"{path} is neither a file nor a folder; give one, or - for stdin")
    out.result({"cid": str(cid), "name": kept}, str(cid))


@contextmanager
def _files(folder: Path, progress: Progress) -> Iterator[dict[str, bytes | BinaryIO]]:
    opened: dict[str, bytes | BinaryIO] = {}
    try:
        for entry in sorted(folder.iterdir()):
            if not entry.is_file():
                raise InputError(f"{entry} is no file; a directory here holds files only")
            opened[entry.name] = _binary(_Watched(entry, progress))
        yield opened
    finally:
        for file in opened.values():
            if not isinstance(file, bytes):
                file.close()


def _binary(file: Any) -> BinaryIO:
    # a raw file has all of a BinaryIO that stores use, but not its type
    stream: BinaryIO = file
    return stream


@ipfs_app.command("cat")
def cat(
    cid: CidArgument,
    home: HomeOption = DEFAULT_HOME,
    ipfs: IpfsOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write, instead of standard output."),
    ] = None,
    timeout: TimeoutOption = 600.0,
    max_bytes: MaxOption = DEFAULT_MAX_BYTES,
    as_json: JsonOption = False,
) -> None:
    """Print a file, every block of it verified. What was fetched stays for the next time."""
    out, store = Output(as_json), _open(home, ipfs)
    root, name = _split(cid)
    if output is None and as_json:
        raise InputError("--json prints a document, and so the content needs --output FILE")
    parts = store.open(root, name, timeout_s=timeout, max_bytes=max_bytes)
    if output is None:
        _print(parts)
        return
    with out.bar(f"writing {output.name}") as progress, _whole(output) as file:
        size = _copy(parts, file, progress)
    out.result({"cid": cid, "file": str(output), "size": size}, f"{output}: {size:,} bytes")


def _print(parts: Iterable[bytes]) -> None:
    try:
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # whoever reads has enough; the interpreter must not try to flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _copy(parts: Iterable[bytes], file: BinaryIO, progress: Progress) -> int:
    size = 0
    for part in parts:
        file.write(part)
        size += len(part)
        progress(size, 0)
    return size


@contextmanager
def _whole(file: Path) -> Iterator[BinaryIO]:
    """Write a file that appears when it is whole, or not at all."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as stream:
            yield stream
        part.replace(file)
    except OSError as error:
        raise InputError(
            f"{file} cannot be written: {error.strerror}; name a file in a folder that is there"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink()


def _split(text: str) -> tuple[Cid, str]:
    root, _, name = text.removeprefix("/ipfs/").partition("/")
    return Cid.parse(root), name


@ipfs_app.command("ls")
def ls(
    cid: Annotated[str, typer.Argument(help="CID of a directory.")],
    home: HomeOption = DEFAULT_HOME,
    ipfs: IpfsOption = None,
    timeout: TimeoutOption = 60.0,
    as_json: JsonOption = False,
) -> None:
    """List a directory."""
    entries = _open(home, ipfs).ls(Cid.parse(cid), timeout_s=timeout)
    shown = Text("\n").join(_row(entry) for entry in entries)
    rows = [{"name": e.name, "size": e.size, "cid": str(e.cid)} for e in entries]
    Output(as_json).result(rows, shown if rows else "the directory is empty")


def _row(entry: Entry) -> Text:
    # names come from strangers
    name = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in entry.name)
    size = "folder" if entry.size is None else f"{entry.size:,}"
    return Text(f"{entry.cid}  {size:>15}  {name}")


@ipfs_app.command("pin")
def pin(
    cid: Annotated[str | None, typer.Argument(help="CID to keep; none lists what is kept.")] = None,
    home: HomeOption = DEFAULT_HOME,
    ipfs: IpfsOption = None,
    name: NameOption = DEFAULT_PIN,
    timeout: TimeoutOption = 600.0,
    max_bytes: MaxOption = DEFAULT_MAX_BYTES,
    as_json: JsonOption = False,
) -> None:
    """Fetch what is missing of content and keep it, or list what is kept."""
    out, store = Output(as_json), _open(home, ipfs)
    if cid is not None:
        with out.notes.status(f"fetching {cid[:16]}…") if not as_json else nullcontext():
            store.pin(Cid.parse(cid), name, timeout_s=timeout, max_bytes=max_bytes)
        out.result({"cid": cid, "name": name}, f"{name} keeps {cid}")
        return
    pins = store.pins()
    shown = "\n".join(f"{root}  {each}" for each, root in pins)
    rows = [{"name": each, "cid": str(root)} for each, root in pins]
    out.result(rows, Text(shown) if rows else "nothing is kept")


@ipfs_app.command("unpin")
def unpin(
    cid: Annotated[str, typer.Argument(help="CID that need not be kept.")],
    home: HomeOption = DEFAULT_HOME,
    ipfs: IpfsOption = None,
    name: NameOption = DEFAULT_PIN,
    as_json: JsonOption = False,
) -> None:
    """Let a name keep content no longer; `tribute ipfs gc` frees what no name keeps."""
    _open(home, ipfs).unpin(Cid.parse(cid), name)
    Output(as_json).result({"cid": cid, "name": name}, f"{name} keeps {cid} no longer")


@ipfs_app.command("stat")
def stat(
    home: HomeOption = DEFAULT_HOME, ipfs: IpfsOption = None, as_json: JsonOption = False
) -> None:
    """Count blocks, bytes and what is kept."""
    found = _open(home, ipfs).stat()
    Output(as_json).result(
        asdict(found), f"{found.blocks:,} blocks, {found.size:,} bytes, {found.pins} roots kept"
    )


# -------------------------------------------------------------------- archives


@ipfs_app.command("import")
def import_(
    archive: Annotated[Path, typer.Argument(help="CAR archive, version 1.", dir_okay=False)],
    home: HomeOption = DEFAULT_HOME,
    name: NameOption = DEFAULT_PIN,
    as_json: JsonOption = False,
) -> None:
    """Take the blocks of a CAR archive, each verified, and keep its roots.

    Interrupted, it goes on from the same archive when it is run again.
    """
    out, store = Output(as_json), _local(home)
    if not archive.is_file():
        raise InputError(f"there is no file {archive}; give a CAR archive")
    with out.bar(f"importing {archive.name}") as progress, _Watched(archive, progress) as file:
        size = archive.stat().st_size
        try:
            roots, blocks = read_car(iter(lambda: file.read(_PART_BYTES), b""), max_bytes=size)
            count = _take(store, blocks)
        except (BlockError, LimitError) as error:
            raise type(error)(f"{archive} is no sound CAR archive: {error}") from error
    if not roots:
        raise FormatError(f"{archive} names no root; its {count} blocks are there, but not kept")
    for root in roots:
        store.pin(root, name, timeout_s=_NO_TIME, max_bytes=1 << 62)
    shown = "\n".join(map(str, roots))
    out.result({"roots": [str(root) for root in roots], "blocks": count, "name": name}, shown)


def _take(store: BlockStore, blocks: Iterable[tuple[Cid, bytes]]) -> int:
    count = size = 0
    batch: list[tuple[Cid, bytes]] = []
    for cid, block in blocks:
        batch.append((cid, block))
        count, size = count + 1, size + len(block)
        if size >= _BATCH_BYTES:
            store.put_blocks(batch)
            batch, size = [], 0
    store.put_blocks(batch)
    return count


@ipfs_app.command("export")
def export(
    cid: Annotated[str, typer.Argument(help="CID of a file or directory.")],
    archive: Annotated[Path, typer.Argument(help="CAR archive to write.", dir_okay=False)],
    home: HomeOption = DEFAULT_HOME,
    ipfs: IpfsOption = None,
    timeout: TimeoutOption = _NO_TIME,
    as_json: JsonOption = False,
) -> None:
    """Write content with all its blocks to a CAR archive."""
    out, store = Output(as_json), _open(home, ipfs)
    assert isinstance(store, FileReader)
    root, deadline = Cid.parse(cid), Deadline.after(timeout)
    blocks = (
        (block, store.get(block, deadline)) for block in reachable(store.get, [root], deadline)
    )
    with out.bar(f"writing {archive.name}") as progress, _whole(archive) as file:
        size = _copy(write_car([root], blocks), file, progress)
    out.result({"cid": cid, "file": str(archive), "size": size}, f"{archive}: {size:,} bytes")


# -------------------------------------------------------------------- collection


def release_rounds(store: Store, chain: Chain, keep: int) -> list[tuple[str, Cid]]:
    """Unpin what ended rounds of the chain's projects no longer need; return (name, root) of it."""
    from marketplace.history import ProjectView

    pins = store.pins()
    wanted = {digits for name, _ in pins if (digits := project_of(name))}
    gone = []
    for project in chain.projects():
        if project.hex()[:16] not in wanted:
            continue
        view = ProjectView(chain, project)
        names = [name for name, _ in pins]
        old = set(released(names, project, view.history, view.state.round, keep))
        gone += [(name, cid) for name, cid in pins if name in old]
    for name, cid in gone:
        store.unpin(cid, name)
    return gone


@ipfs_app.command("gc")
def gc(
    home: HomeOption = DEFAULT_HOME,
    rpc: RpcOption = None,
    ipfs: IpfsOption = None,
    keep: Annotated[
        int, typer.Option(help="Settled rounds of each project to keep whole.", min=1)
    ] = DEFAULT_KEPT_ROUNDS,
    unpinned_only: Annotated[
        bool, typer.Option("--unpinned-only", help="Leave all that has a name; ask no chain.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Free what no project needs any more and no name keeps. Safe beside running roles.

    Where the chain does not answer, all that projects keep stays.
    """
    from marketplace.types import Deployment

    out, store = Output(as_json), _open(home, ipfs)
    gone: list[tuple[str, Cid]] = []
    unasked = ""
    if not unpinned_only and Deployment.file(home).exists():
        try:
            gone = release_rounds(store, open_chain(home, rpc, _CHAIN_S), keep)
        except ChainError as error:
            roots = sum(project_of(name) is not None for name, _ in store.pins())
            unasked = f"{error}; so all {roots} roots that projects keep stay"
    freed = store.gc()
    shown = (
        f"{freed.freed_blocks:,} blocks freed, {freed.freed_size:,} bytes; {freed.kept_blocks:,} "
        f"blocks stay; {len(gone)} roots of settled rounds let go"
    )
    out.result(
        {
            **asdict(freed),
            "released": [{"name": name, "cid": str(cid)} for name, cid in gone],
            "unasked": unasked,
        },
        f"{unasked}\n{shown}" if unasked else shown,
    )


# -------------------------------------------------------------------------- server


@ipfs_app.command("serve")
def serve(
    home: HomeOption = DEFAULT_HOME,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines read.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 picks a free one.", min=0, max=65535)] = 8480,
    as_json: JsonOption = False,
) -> None:
    """Serve this home's content as a read-only trustless gateway until Ctrl-C.

    Others name it with --ipfs. Whoever knows a CID can read what it names.
    """
    from ipfs.serve import listen, serve

    bound = listen(host, port)
    shown_host = f"[{host}]" if ":" in host else host
    url = f"http://{shown_host}:{bound.getsockname()[1]}"
    out = Output(as_json)
    # The server ends in order first, and then raises the signal that it had caught.
    with suppress(KeyboardInterrupt):
        out.result({"url": url}, f"{url}  (Ctrl-C stops)")
        sys.stdout.flush()
        serve(_local(home), bound)
    out.note("stopped")
