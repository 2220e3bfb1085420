"""``vpool registry backup``: one commit of the registry in a file, beside whatever goes on."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from registry import RegistryView
from registry.export import FOOTER_BYTES, MAGIC, ExportId, batches, encode_part
from vpool.durable import sync_directory
from vpool.errors import Denied, Exists, Invalid, NoSpace
from vpool.place import Place


@dataclass(frozen=True, slots=True)
class BackupWritten:
    """What is in the file."""

    vpool: str
    generation: int
    index: int
    items: int
    bytes_written: int


def write_backup(directory: Path, file: Path) -> BackupWritten:
    """Write the registry of ``directory`` to ``file``; blocks; durable and whole on return, else ``file`` is as it was.

    Raises:
        Invalid: DIR is no vPool, or the file's directory is not there.
        Exists: the file is there, and is something else than an older backup.
        Denied, NoSpace: the file cannot be written.
        Halted, Corrupt: the registry cannot be read.
    """
    identity = Place(directory).identity
    if identity is None:
        raise Invalid(f"{directory} is no vPool")
    if not file.parent.is_dir() or file.is_dir():
        raise Invalid(f"{file} cannot be written: name a file in a directory that is there")
    if not _may_be_replaced(file):
        raise Exists(f"{file} is there and is no backup of a registry; name another file, or remove it")
    new = file.with_name(f"{file.name}.new")
    try:
        with RegistryView(directory / "registry") as view, open(new, "wb", opener=_private) as out:
            source = view.export()
            try:
                generation = source.tables.generation()
                export = ExportId(identity.vpool, generation, source.index, 0, identity.node, 0, time.time_ns())
                items, before, size = 0, bytes(FOOTER_BYTES), 0
                for number, (group, last) in enumerate(batches(source.items())):
                    data = encode_part(export, number, group, last=last, before=before)
                    size += out.write(data)
                    items, before = items + len(group), data[-FOOTER_BYTES:]
            finally:
                source.close()
            out.flush()
            os.fsync(out.fileno())
        new.replace(file)
        sync_directory(file.parent)
    except PermissionError as error:
        raise Denied(f"{error.filename} refuses: {error.strerror}") from None
    except OSError as error:
        new.unlink(missing_ok=True)
        raise NoSpace(f"{file} cannot be written: {error.strerror}") from None
    return BackupWritten(identity.vpool, generation, export.index, items, size)


def _may_be_replaced(file: Path) -> bool:
    """Whether it is an older backup, or nothing is lost."""
    try:
        with file.open("rb") as there:
            return there.read(len(MAGIC)) in (MAGIC, b"")
    except FileNotFoundError:
        return True
    except OSError as error:
        raise Denied(f"{file} refuses: {error.strerror}") from None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
