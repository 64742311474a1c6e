"""One portable file for one snapshot: a tar of a little store with a vault of its own, its key given or none.

Nothing is ever unpacked to a path that an archive names: members are read by store key, and every key, image name, log
name and tree is checked before a byte reaches a store.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from ergosphere.snapshots.copying import PRIVATE_MODE
from ergosphere.snapshots.errors import BadKey, Damaged, MissingKey, NotFound, Refused, WrongKey
from ergosphere.snapshots.getting import read_stream
from ergosphere.snapshots.keys import KeyRing
from ergosphere.snapshots.manifest import CellPart, Manifest
from ergosphere.snapshots.recipes import ZEROS, Recipe
from ergosphere.snapshots.records import RECORDS, commit, is_committed, load
from ergosphere.snapshots.remote import marker
from ergosphere.snapshots.repacking import adopt_chunks
from ergosphere.snapshots.sealed_store import SealedStore, fleet_sealer
from ergosphere.snapshots.sealing import Bytes
from ergosphere.snapshots.shelf import keep_recipe, recipes_of
from ergosphere.snapshots.store import Source, Store, Stored, check_key
from ergosphere.snapshots.tree import parse_tree
from ergosphere.snapshots.vault import Vault, open_vault
from ergosphere.snapshots.vault_head import read_head, vault_root

PROJECT: Final = "archive"
PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")  # of an image or a log
BLOCK: Final = 512  # bytes of a tar header


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written, and what whoever has the file should know, loudly."""

    path: Path
    bytes: int
    warnings: tuple[str, ...]


def export(vault: Vault, manifest: Manifest, dest: Path, key: bytes | None) -> Exported:
    """Write a remote snapshot to `dest` (absent), encrypted under `key` (32 bytes) or not at all.

    Errors: NotRemote, Damaged, StoreError, OSError; nothing is left at `dest` then.
    """
    recipes = recipes_of(vault, manifest)
    vault.refresh()  # agents have uploaded since
    dest.open("xb").close()
    try:
        dest.chmod(PRIVATE_MODE)
        with closing(ArchiveStore(dest, writing=True)) as archive:
            store = _sealed(archive, key)
            target = open_vault(store, PROJECT, _ring(key))
            for recipe in recipes:
                target.put_recipe(_adopted(target, vault, recipe, manifest.id))
                store.put(marker(manifest.id, recipe.cell), b"")
            commit(store, manifest.id, manifest)
    except BaseException:
        dest.unlink()
        raise
    return Exported(dest, dest.stat().st_size, _warnings(manifest, key))


def read_manifest(path: Path, key: bytes | None) -> Manifest:
    """What an archive holds, without touching any store. Errors: Damaged, Forged, MissingKey, WrongKey, TooNew."""
    with closing(ArchiveStore(path)) as archive:
        return _manifest(archive, path, key)


def import_archive(path: Path, key: bytes | None, vault: Vault, fresh: Callable[[Manifest], Manifest]) -> Manifest:
    """Bring an archive's snapshot into a vault under the vault's own key; every chunk is verified.

    `fresh` gives the manifest its id and job here, and raises what refuses it: thawing an image sets users and
    capabilities, so importing is an administrator's act. Errors: as read_manifest; Refused, StoreError, Busy.
    """
    with closing(ArchiveStore(path)) as archive:
        source = _opened(_sealed(archive, key), path, key)
        manifest = _manifest(archive, path, key)
        check_names(manifest)
        taken_in = fresh(manifest)
        for recipe in recipes_of(source, manifest):
            check_recipe(source, recipe, manifest.cell(recipe.cell))
            keep_recipe(vault, _adopted(vault, source, recipe, taken_in.id))
            vault.store.put(marker(taken_in.id, recipe.cell), b"")
    if commit(vault.store, taken_in.id, taken_in) != taken_in:
        raise Refused(f"snapshot {taken_in.id} exists already", "import it under another id")
    return taken_in


def check_names(manifest: Manifest) -> None:
    """Errors: Refused for a name that could lead out of its folder."""
    names = [file.name for cell in manifest.cells for rank in cell.ranks for file in rank.files]
    names += [log.name for cell in manifest.cells for log in cell.logs]
    bad = [name for name in names if not PLAIN_NAME.fullmatch(name)]
    if bad:
        raise Refused(f"the archive names {bad[0][:100]!r}, which could lie outside its folder", "do not trust it")


def check_recipe(source: Vault, recipe: Recipe, part: CellPart) -> None:
    """Errors: Damaged (it lacks what its manifest names), Refused (a tree that leads out of its folder)."""
    streams = {stream.digest: stream for stream in recipe.streams}
    needed = {file.digest for rank in part.ranks for file in rank.files}
    needed |= {piece.digest for log in part.logs for piece in log.pieces}
    for summary in (part.work, part.cache):
        if summary is None:
            continue
        if summary.digest not in streams:
            raise Damaged("the list of files", recipe.freeze, "is missing")
        try:
            tree = parse_tree(read_stream(source, recipe, streams[summary.digest]), "the list of files")
        except Damaged as error:
            raise Refused(f"the archive's {error.which} {error.how}", "do not trust it") from error
        needed |= tree.digests()
    if needed - streams.keys():
        raise Damaged(f"{len(needed - streams.keys())} stream(s)", recipe.freeze, "are missing")


def _adopted(target: Vault, source: Vault, recipe: Recipe, freeze_id: str) -> Recipe:
    fresh, _ = adopt_chunks(target, source, recipe.names)
    order = np.where(recipe.chunk == ZEROS, np.uint32(ZEROS), recipe.chunk).astype(np.uint32)
    return replace(recipe, freeze=freeze_id, names=fresh, chunk=order)


def _opened(archive: Store, path: Path, key: bytes | None) -> Vault:
    """Errors: MissingKey, WrongKey (in words of who imports), Damaged, Forged, TooNew."""
    try:
        return open_vault(archive, PROJECT, _ring(key))
    except MissingKey:
        raise MissingKey(f"{path} is encrypted", "leave out --plain, or name its key with --key FILE") from None
    except WrongKey:
        head = read_head(archive, vault_root(PROJECT))
        if head is not None and not head.encrypted:
            raise WrongKey(f"{path} is not encrypted, and a key for it is given", "import it with --plain") from None
        raise WrongKey(f"{path} was exported with another key", "name its own key with --key FILE") from None


def _manifest(archive: ArchiveStore, path: Path, key: bytes | None) -> Manifest:
    _opened(archive, path, key)  # says whether the key is the right one
    store = _sealed(archive, key)
    ids = [stored.key.removeprefix(RECORDS) for stored in archive.list(RECORDS)]
    if len(ids) != 1:
        raise Damaged("the archive", how=f"holds {len(ids)} snapshots instead of one")
    if key is None and not is_committed(store.get(f"{RECORDS}{ids[0]}"), ids[0]):
        raise Damaged("the archive", how="holds no committed snapshot")
    return load(store, ids[0])


def _sealed(archive: Store, key: bytes | None) -> Store:
    fleet = None if key is None else KeyRing({"default": key}).fleet()
    return archive if fleet is None else SealedStore(archive, fleet_sealer(fleet))


def _ring(key: bytes | None) -> KeyRing | None:
    return None if key is None else KeyRing({"default": key})


def _warnings(manifest: Manifest, key: bytes | None) -> tuple[str, ...]:
    ranks = sum(len(cell.ranks) for cell in manifest.cells)
    said = [
        f"this file holds the whole memory of {ranks} process tree(s), their files and their environment: "
        "every password, token and key they had in memory is in it"
    ]
    if key is None:
        said.append("it is NOT encrypted: whoever can read it can read all of that")
    else:
        said.append("it is encrypted; it can be read only with the key it was written with")
    said.append("importing it sets users and capabilities: only import files from who you trust")
    return tuple(said)


class ArchiveStore:
    """A tar file as a store: written once from front to back, or only read."""

    def __init__(self, path: Path, *, writing: bool = False) -> None:
        """Errors: Damaged (it is no archive), Refused (a member's name could lie outside)."""
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        self._file = path.open("wb", buffering=0) if writing else None
        self._writer = tarfile.TarFile(mode="w", fileobj=self._file, format=tarfile.USTAR_FORMAT) if writing else None
        self._reader = path.open("rb")
        if not writing:
            self._read_places()

    def close(self) -> None:
        self._reader.close()
        if self._writer is not None:
            self._writer.close()
        if self._file is not None:
            self._file.close()

    def put(self, key: str, source: Source, *, if_absent: bool = False, share: bool = False) -> bool:
        if if_absent and check_key(key) in self._places:
            return False
        if self._writer is None or key in self._places:
            raise NotImplementedError("an archive is written once")
        content = source.read_bytes() if isinstance(source, Path) else bytes(source)
        member = tarfile.TarInfo(check_key(key))
        member.size, member.mode = len(content), PRIVATE_MODE
        start = self._writer.offset + BLOCK
        self._writer.addfile(member, io.BytesIO(content))
        self._places[key] = (start, len(content))
        return True

    def get(self, key: str) -> bytes:
        return bytes(self.get_range(key, 0, self._place(key)[1]))

    def get_range(self, key: str, start: int, size: int, room: memoryview | None = None) -> Bytes:
        at, length = self._place(key)
        return os.pread(self._reader.fileno(), max(0, min(size, length - start)), at + start)

    def fetch(self, key: str, dest: Path, *, share: bool = False) -> None:
        dest.write_bytes(self.get(key))

    def has(self, key: str) -> bool:
        return check_key(key) in self._places

    def list(self, prefix: str = "") -> Iterator[Stored]:
        return (Stored(key, size, 0.0) for key, (_, size) in sorted(self._places.items()) if key.startswith(prefix))

    def delete(self, key: str, *, written_before_s: float | None = None) -> bool:
        raise NotImplementedError("an archive is written once")

    def forget(self, key: str) -> bool:
        return False

    def _place(self, key: str) -> tuple[int, int]:
        try:
            return self._places[check_key(key)]
        except KeyError:
            raise NotFound(key) from None

    def _read_places(self) -> None:
        try:
            with tarfile.open(self._path, "r:") as reader:
                for member in reader:
                    if not member.isreg():
                        raise Refused(f"the archive's {member.name[:100]!r} is no plain file", "do not trust it")
                    self._places[check_key(member.name)] = (member.offset_data, member.size)
        except BadKey as error:
            raise Refused(f"the archive holds a path that leads out of it: {error.cause}", "do not trust it") from error
        except tarfile.TarError as error:
            raise Damaged(str(self._path), how=f"is no archive of a snapshot ({error})") from error
        if not any(key.startswith(RECORDS) for key in self._places):
            raise Damaged(str(self._path), how="is no archive of a snapshot")
