"""Files that take what they hold from elsewhere: a hostile one would carry other files of this machine into results."""

from __future__ import annotations

import os
from pathlib import Path

import h5py

from nvae_bio.errors import UserError


def check_hdf5(path: Path) -> None:
    """Refuse an HDF5 file with links to others, or data stored in others.

    Raises:
        UserError: naming the first.
        OSError: it is no HDF5 file.
    """

    def linked(name: str, link: object) -> str | None:
        return f"{name!r} is a link to the file {link.filename!r}" if isinstance(link, h5py.ExternalLink) else None

    def stored(name: str, item: h5py.Group | h5py.Dataset) -> str | None:
        is_elsewhere = isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)
        return f"{name!r} is stored in another file" if is_elsewhere else None

    with h5py.File(path) as file:
        found = file.visititems_links(linked) or file.visititems(stored)
    if found:
        raise UserError(f"{path}: {found}; allowed: data in the file")


def check_links(folder: Path) -> None:
    """Refuse a folder with links out of it.

    Raises:
        UserError: naming the first.
    """
    home = folder.resolve()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(home):
            raise UserError(f"{path}: a link to what is outside of {folder}; allowed: files in it (copy it there)")
