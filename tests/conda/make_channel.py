"""A local conda channel with two packages, python and pip, both taken from the interpreter that runs this file.

It stands for conda-forge in tests: an environment file that asks conda for python and pip only, and PyPI for the rest,
can then be solved and installed where no conda channel can be reached. The layout is that of any channel: one archive
a package, `info/` inside it, and a `repodata.json` a platform, which py-rattler writes.
"""

import asyncio
import hashlib
import json
import shutil
import sys
import sysconfig
import tarfile
import tempfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
LEFT_OUT = ("site-packages", "__pycache__", "test", "idlelib", "turtledemo", "config-*", "*.a")


def make_channel(channel: Path) -> None:
    """Write the channel folder, with its index."""
    from rattler.index import index_fs  # here: tests can be collected without it
    from rattler.platform import Subdir

    subdir = str(Subdir.current())
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "python")
        copy_python(Path(sys.base_prefix), tree)
        version = ".".join(map(str, sys.version_info[:3]))
        pack(tree, channel / subdir, {"name": "python", "version": version, "build": "0", "subdir": subdir})

        tree = Path(scratch, "pip")
        pip = {"name": "pip", "version": copy_pip(tree), "build": "py_0", "subdir": "noarch"}
        pack(tree, channel / "noarch", pip | {"noarch": "python", "depends": ["python >=3"]})
    asyncio.run(index_fs(channel))


def copy_python(base: Path, tree: Path) -> None:
    """Copy the interpreter in `base` and its standard library, so that the copy needs nothing of `base`.

    Python finds its library from the place of its program; only the search path for libpython is written into the
    program, and it becomes relative here. System libraries (OpenSSL, SQLite, ...) stay those of the machine.
    """
    shutil.copytree(sysconfig.get_path("stdlib"), tree / "lib" / PYTHON, ignore=shutil.ignore_patterns(*LEFT_OUT))
    (tree / "lib" / PYTHON / "site-packages").mkdir()
    (tree / "lib" / PYTHON / "site-packages" / "README.txt").write_text("Packages of this environment.\n")
    shutil.copytree(sysconfig.get_path("include"), tree / "include" / PYTHON)
    for library in (base / "lib").glob("libpython3*.so*"):
        shutil.copy2(library, tree / "lib")

    absolute, relative = f"\0{base}/lib\0".encode(), b"\0$ORIGIN/../lib\0"
    program = (base / "bin" / PYTHON).resolve().read_bytes()
    target = tree / "bin" / PYTHON
    target.parent.mkdir()
    target.write_bytes(program.replace(absolute, relative.ljust(len(absolute), b"\0")))  # same length, or ELF breaks
    target.chmod(0o755)
    for name in ("python", "python3"):
        (tree / "bin" / name).symlink_to(PYTHON)


def copy_pip(tree: Path) -> str:
    """Copy the pip of the environment that runs this; returns its version."""
    pip = distribution("pip")
    for file in pip.files or ():
        if file.parts[0] != ".." and "__pycache__" not in file.parts:  # neither programs nor compiled files
            target = tree / "site-packages" / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file.locate(), target)
    commands = ["pip = pip._internal.cli.main:main", "pip3 = pip._internal.cli.main:main"]
    link = {"noarch": {"type": "python", "entry_points": commands}, "package_metadata_version": 1}
    write_json(tree / "info" / "link.json", link)
    return pip.version


def pack(tree: Path, folder: Path, index: dict[str, Any]) -> None:
    """Add `info/` to a package's tree and write it as a conda archive into the channel's platform folder."""
    paths = [path_entry(path, tree) for path in sorted(tree.rglob("*")) if path.is_symlink() or path.is_file()]
    paths = [entry for entry in paths if not entry["_path"].startswith("info/")]
    write_json(tree / "info" / "paths.json", {"paths": paths, "paths_version": 1})
    write_json(tree / "info" / "index.json", {"build_number": 0, "depends": [], **index})
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{index['name']}-{index['version']}-{index['build']}.tar.bz2"
    with tarfile.open(file, "w:bz2", compresslevel=1) as archive:
        for child in sorted(tree.iterdir()):
            archive.add(child, child.name)


def path_entry(path: Path, tree: Path) -> dict[str, Any]:
    """One file's line in `paths.json`; `prefix_placeholder` is the text that an install replaces by its own prefix."""
    content = path.read_bytes()
    entry: dict[str, Any] = {
        "_path": path.relative_to(tree).as_posix(),
        "path_type": "softlink" if path.is_symlink() else "hardlink",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size_in_bytes": len(content),
    }
    if path.name.startswith("_sysconfigdata") and sys.base_prefix.encode() in content:  # flags for building extensions
        entry |= {"prefix_placeholder": sys.base_prefix, "file_mode": "text"}
    return entry


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a small JSON file and the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
