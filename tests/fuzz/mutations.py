"""Changes to real files: of bytes, and inside what a format holds (words of a text, values of JSON, parts of HDF5)."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nvae_bio.data.files import BLOCK, MARK

Rng = np.random.Generator
Change = Callable[[bytes, Rng], bytes]

NUMBERS = [0, 1, 2, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = [
    "", "0", "-1", "1e308", "1e999", "nan", "inf", "-0.0", "1.5", "9" * 30, "0x10", "007", "true", "null", "=1+1", "{}",
    '"', "'", ",", "\t", "\n", "\r", "\0", "\ufeff", "ü", "\U0001f9ec", "../../x", "A" * 3000, "[]", "*", "&a", "<<",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 1e308, float("inf"), 2**31, 2**60, 2**70, "", "x", "float128", "|O", "<U9999999", "../../x",
    "\0", [], {}, [[]], [0], [2**60], {"a": {}}, ["x"] * 50,
]  # fmt: skip


def pick(rng: Rng, choices: list[Any]) -> Any:
    """One of them, whatever they are."""
    return choices[int(rng.integers(len(choices)))]


def _span(content: bytes | bytearray, rng: Rng) -> slice:
    start = int(rng.integers(len(content) + 1))
    return slice(start, start + int(rng.integers(1, 2 + min(len(content), 10 ** int(rng.integers(1, 5))))))


def _flip(content: bytearray, rng: Rng) -> None:
    for _ in range(int(rng.integers(1, 9))):
        content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))


def _number(content: bytearray, rng: Rng) -> None:
    width = pick(rng, [1, 2, 4, 8])
    place = int(rng.integers(max(len(content) - width, 0) + 1))
    if rng.random() < 0.5:  # headers are at the start
        place = min(place, int(rng.integers(256)))
    value = pick(rng, NUMBERS) % 2 ** (8 * width)
    content[place : place + width] = value.to_bytes(width, pick(rng, ["little", "big"]))


def _cut(content: bytearray, rng: Rng) -> None:
    del content[int(rng.integers(len(content))) :]


def _delete(content: bytearray, rng: Rng) -> None:
    del content[_span(content, rng)]


def _repeat(content: bytearray, rng: Rng) -> None:
    where = _span(content, rng)
    content[where.start : where.start] = content[where] * int(rng.integers(1, 5))


def _noise(content: bytearray, rng: Rng) -> None:
    where = _span(content, rng)
    content[where] = rng.bytes(where.stop - where.start)


def _zeros(content: bytearray, rng: Rng) -> None:
    where = _span(content, rng)
    content[where] = pick(rng, [b"\0", b"\xff"]) * (where.stop - where.start)


def _move(content: bytearray, rng: Rng) -> None:
    source, target = _span(content, rng), int(rng.integers(len(content)))
    content[target : target + source.stop - source.start] = content[source]


BYTES = [_flip, _flip, _number, _number, _number, _cut, _delete, _repeat, _noise, _zeros, _move]


def change_bytes(content: bytes, rng: Rng) -> bytes:
    """One to three changes that know nothing of the format."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        if changed:
            pick(rng, BYTES)(changed, rng)
    return bytes(changed)


def change_text(content: bytes, rng: Rng) -> bytes:
    """One to three numbers, words, separators or lines replaced, doubled or left out."""
    text = content.decode("utf-8", "replace")
    for _ in range(int(rng.integers(1, 4))):
        pattern = pick(rng, [r"-?\d+\.?\d*", r"\w+", r"[,\t:=]", r"[^\n]*\n", r"[\[\]{}\"'#&*-]"])
        found = list(re.finditer(pattern, text))
        if found:
            at = pick(rng, found)
            new = pick(rng, [pick(rng, WORDS), at.group() * 2, str(pick(rng, NUMBERS)), pick(rng, found).group()])
            text = text[: at.start()] + new + text[at.end() :]
    return text.encode()


def change_value(value: Any, rng: Rng) -> Any:
    """A value of JSON or YAML with something in it replaced, left out, or added."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return pick(rng, VALUES)
    place = pick(rng, list(value) if isinstance(value, dict) else list(range(len(value))))
    changed: Any = value.copy()
    action = rng.random()
    if action < 0.1:
        del changed[place]
    elif action < 0.2 and isinstance(changed, dict):
        changed[pick(rng, ["x", "", "shape", "dtype", place + "s"])] = pick(rng, [*VALUES, changed[place]])
    elif action < 0.3 and isinstance(changed, list):
        changed.append(pick(rng, [*VALUES, changed[place]]))
    else:
        changed[place] = change_value(changed[place], rng)
    return changed


def change_json(content: bytes, rng: Rng) -> bytes:
    """A value of a JSON file replaced, left out, or added."""
    return json.dumps(change_value(json.loads(content), rng), indent=1).encode()


def change_gzip(content: bytes, rng: Rng) -> bytes:
    """What is packed in it is changed, and packed again."""
    plain = gzip.decompress(content)
    return gzip.compress((change_text if rng.random() < 0.5 else change_bytes)(plain, rng), compresslevel=1)


def change_npz(content: bytes, rng: Rng) -> bytes:
    """An array of it changed (its header, most of the time), renamed, left out, or stored as Python objects."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = pick(rng, list(members))
    action = rng.random()
    if action < 0.5:
        head = members[name][:128]
        changed = (change_text if rng.random() < 0.7 else change_bytes)(head[10:], rng)
        size = len(changed) if rng.random() < 0.7 else pick(rng, NUMBERS) % 2**16
        members[name] = head[:8] + struct.pack("<H", size % 2**16) + changed + members[name][128:]
    elif action < 0.7:
        members[name] = change_bytes(members[name], rng)
    elif action < 0.8:
        members[pick(rng, ["../escaped.npy", "/x.npy", "", "train_images.npy", "a/b.npy"])] = members.pop(name)
    else:
        made = io.BytesIO()
        array = pick(rng, [np.array([{}] * 9), np.zeros(0), np.zeros((3, 0, 2)), np.array("x"), np.ones(9, complex)])
        np.save(made, array, allow_pickle=True)
        members[name] = made.getvalue()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for each, data in members.items():
            archive.writestr(each, data)
    return packed.getvalue()


def _h5_replace(parent: h5py.Group, name: str, rng: Rng) -> None:
    """Another thing under that name: of another type or shape, of absurd size, or with other values."""
    old = parent[name]
    attributes = dict(old.attrs)
    values = old[()] if isinstance(old, h5py.Dataset) else np.zeros(3)
    del parent[name]
    kind = int(rng.integers(8))
    if kind == 0:
        made = parent.create_dataset(name, shape=pick(rng, [(2**45,), (2**31, 2**20), (0,), ()]), dtype="f4")
    elif kind == 1:
        made = parent.create_group(name)
    elif kind == 2:
        made = parent.create_dataset(
            name, data=pick(rng, [b"x", "é", 3, np.nan, np.zeros((2, 2)), [True], [b"a", b"b"]])
        )
    elif kind == 3:
        made = parent.create_dataset(name, shape=(2**40,), chunks=(2**10,), dtype=pick(rng, ["i8", "f8", "S9"]))
    elif kind == 4 and np.ndim(values):
        made = parent.create_dataset(name, data=np.concatenate([values, values[:1]]) if len(values) else [1])
    elif kind == 5 and np.ndim(values):
        made = parent.create_dataset(name, data=values[: len(values) // 2])
    else:
        made = parent.create_dataset(name, data=_odd_values(values, rng))
    for key, value in attributes.items():
        made.attrs[key] = value


def _odd_values(values: Any, rng: Rng) -> Any:
    """The same array with a value or two that are out of bounds, or as another type."""
    array = np.array(values)
    if array.dtype.kind in "iuf" and array.size and array.ndim:
        if rng.random() < 0.3:
            return array.astype(pick(rng, ["f8", "i1", "u8", "f2", "S5"]))
        flat, floats = array.reshape(-1), [np.nan, np.inf, 0.5] * (array.dtype.kind == "f")
        odd = [*NUMBERS[:12], -1, -(2**31), *floats]
        for _ in range(int(rng.integers(1, 3))):
            flat[int(rng.integers(flat.size))] = np.array(pick(rng, odd)).astype(flat.dtype)
        return array
    return np.array([pick(rng, [b"", b"\xff\xfe", "ü".encode(), b"A" * 1000])] * max(array.size, 1))


def change_hdf5(content: bytes, rng: Rng) -> bytes:
    """A group, dataset or attribute of it replaced or left out; the checksum of ours is made anew, or goes."""
    is_ours = content.startswith(MARK)
    held = io.BytesIO(content)
    with h5py.File(held, "r+") as file, np.errstate(all="ignore"):
        names: list[str] = []
        file.visit(names.append)
        name = pick(rng, names)
        parent, last = (file[name.rpartition("/")[0] or "/"], name.rpartition("/")[2])
        target = file if rng.random() < 0.05 else parent[last]
        action = rng.random()
        if action < 0.35 and len(target.attrs):
            key = pick(rng, list(target.attrs))
            if rng.random() < 0.3:
                del target.attrs[key]
            else:
                target.attrs[key] = pick(
                    rng, ["", "x", "dataframe", "csr_matrix", 2**60, -1, [3, 4], np.zeros(2), "0.1.0"]
                )
        elif action < 0.45:
            del parent[last]
        elif action < 0.5:
            file.move(name, name + "2")
        else:
            _h5_replace(parent, last, rng)
    changed = held.getvalue()
    return signed(changed) if is_ours and rng.random() < 0.9 else changed


def signed(content: bytes) -> bytes:
    """An .h5ad of ours with the checksum that its content should have."""
    checksum = hashlib.sha256(content[BLOCK:]).hexdigest().encode()
    return (MARK + checksum).ljust(BLOCK, b"\0") + content[BLOCK:]


def change_parquet(content: bytes, rng: Rng) -> bytes:
    """Bytes of its footer, or a column of another type; metadata of pandas changed or gone."""
    if rng.random() < 0.5:
        size = int.from_bytes(content[-8:-4], "little") + 8
        footer = change_bytes(content[-size:-8], rng)
        return content[:-size] + footer + struct.pack("<I", len(footer)) + content[-4:]
    table = pq.read_table(io.BytesIO(content))
    place, n = int(rng.integers(table.num_columns)), table.num_rows
    name = pick(rng, [table.column_names[place], table.column_names[-1], "", "x"])
    if rng.random() < 0.3:
        about = dict(table.schema.metadata or {})
        for key in about:
            about[key] = pick(rng, [change_text, change_bytes])(about[key], rng)
        table = table.replace_schema_metadata(about)
    else:
        column = pick(rng, [
            *([[1]] * n, [{"a": 1}] * n, [None] * n, [b"\xff"] * n, [True] * n, ["A" * 500] * n, [-1] * n, [2**62] * n),
            *([float("inf")] * n, [float("nan")] * n, [[["x"]]] * n),
        ])  # fmt: skip
        table = table.set_column(place, name, pa.array(column))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def change_safetensors(content: bytes, rng: Rng) -> bytes:
    """The JSON header changed, its length right."""
    size = int.from_bytes(content[:8], "little")
    header = change_json(content[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


INSIDE: dict[str, Change] = {
    ".gz": change_gzip,
    ".npz": change_npz,
    ".h5ad": change_hdf5,
    ".h5": change_hdf5,
    ".parquet": change_parquet,
    ".safetensors": change_safetensors,
    ".json": change_json,
    ".zattrs": change_json,
    ".zarray": change_json,
    ".csv": change_text,
    ".tsv": change_text,
    ".mtx": change_text,
    ".gmt": change_text,
    ".yaml": change_text,
}


def change_folder(folder: Path, rng: Rng) -> str:
    """Change one file of a case (two, rarely), or delete it; returns what was done, in words."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    done = []
    for _ in range(1 + (rng.random() < 0.1)):
        path = pick(rng, files)
        content, name = path.read_bytes(), path.suffix or path.name
        if rng.random() < 0.02:
            content, how = b"", "emptied"
        elif name in INSIDE and rng.random() < 0.6:
            try:
                content, how = INSIDE[name](content, rng), INSIDE[name].__name__
            except Exception:  # the change is not one that the format's library can write
                content, how = change_bytes(content, rng), "change_bytes"
        else:
            content, how = change_bytes(content, rng), "change_bytes"
        path.write_bytes(content)
        done.append(f"{path.relative_to(folder)}: {how}")
    return ", ".join(done)
