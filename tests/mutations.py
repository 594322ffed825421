"""Damaging files on purpose, the same way every time: bytes, arrays, JSON and text."""

from __future__ import annotations

import io
import json
import re
import zipfile

import numpy as np

AWFUL = [
    np.nan, np.inf, 1e300, -1e300, 2**62, 0, -1, "", "x" * 100_000, "\x00", "../../etc/passwd",
    True, None,
]  # fmt: skip
"""Values that nobody expects; None removes what it should replace."""


def damaged_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, bits flipped, bytes inserted, removed, zeroed or repeated."""
    size = max(1, len(data))
    at, length = int(rng.integers(size)), int(rng.integers(1, max(2, size // 10)))
    kind = rng.integers(7)
    if kind == 0:
        return data[:at]
    if kind == 1:
        changed = bytearray(data)
        for place in rng.integers(0, size, int(rng.integers(1, 20))):
            changed[place] ^= 1 << int(rng.integers(8))
        return bytes(changed)
    if kind == 2:
        return data[:at] + rng.bytes(int(rng.integers(1, 64))) + data[at:]
    if kind == 3:
        return data[:at] + data[at + length :]
    if kind == 4:
        return data[:at] + bytes(min(length, size - at)) + data[at + length :]
    if kind == 5:
        return data[:at] + data[at : at + length] + data[at:]
    # The first bytes decide what a file is taken for.
    head = min(64, size)
    changed = bytearray(data)
    for place in rng.integers(0, head, 3):
        changed[place] = int(rng.integers(256))
    return bytes(changed)


def damaged_inside(data: bytes, rng: np.random.Generator) -> bytes:
    """An npz whose archive is whole and one of whose arrays is damaged, mostly in its header."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as whole, zipfile.ZipFile(stream, "w") as archive:
        names = whole.namelist()
        damaged = names[int(rng.integers(len(names)))]
        for name in names:
            content = whole.read(name)
            if name == damaged:
                split = len(content) if rng.integers(2) else min(len(content), 128)
                content = damaged_bytes(content[:split], rng) + content[split:]
            archive.writestr(name, content)
    return stream.getvalue()


def damaged_head(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes replaced within the first thousand: where the nodes of an ONNX file stand."""
    changed = bytearray(data)
    for place in rng.integers(0, min(1000, len(data)), int(rng.integers(1, 6))):
        changed[place] = int(rng.integers(256))
    return bytes(changed)


def npz_bytes(arrays: dict[str, object]) -> bytes:
    """An npz with anything inside, objects included."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def damaged_arrays(arrays: dict[str, object], rng: np.random.Generator) -> dict[str, object]:
    """One key renamed, removed or added, or one array of another shape, type or content."""
    changed = dict(arrays)
    key = str(rng.choice(sorted(changed)))
    array = np.asarray(changed[key])
    kind = int(rng.integers(9))
    if kind == 0:
        changed.pop(key)
    elif kind == 1:
        changed[key + "x"] = changed.pop(key)
    elif kind == 2:
        changed[key] = array[..., :-1] if array.ndim else np.array([array, array])
    elif kind == 3:
        changed[key] = array[:1] if array.ndim else array[None, None]
    elif kind == 4:
        changed[key] = np.array([{"a": 1}, [2]], dtype=object)
    elif kind == 5:
        changed[key] = array.astype("U20") if array.dtype.kind != "U" else np.zeros(array.shape)
    elif kind == 6:
        spoiled = np.array(array, dtype=object if array.dtype.kind in "US" else np.float64)
        if spoiled.size:
            spoiled.flat[int(rng.integers(spoiled.size))] = [np.nan, np.inf, 1e300][rng.integers(3)]
        changed[key] = spoiled.astype("U400") if spoiled.dtype == object else spoiled
    elif kind == 7:
        changed[key] = (
            array.astype(np.complex64) if array.dtype.kind in "fiu" else array.ravel()[:0]
        )
    else:
        changed[key] = np.zeros((3, 0, 5)) if rng.integers(2) else array.ravel()
    return changed


def damaged_json(value: object, rng: np.random.Generator) -> object:
    """A JSON value with one thing changed, at any depth."""
    if isinstance(value, dict) and value and rng.integers(6):
        key = str(rng.choice(sorted(value)))
        new = damaged_json(value[key], rng)
        return {k: (new if k == key else v) for k, v in value.items() if k != key or new != "drop"}
    if isinstance(value, list) and value and rng.integers(4):
        place = int(rng.integers(min(len(value), 40)))
        return [*value[:place], damaged_json(value[place], rng), *value[place + 1 :]]
    options = [None, True, -1, 0, 10**400, 1e308, "", "x" * 50_000, [], {}, [[]], "drop", {"a": []}]
    return options[int(rng.integers(len(options)))]


def damaged_text(text: str, rng: np.random.Generator) -> str:
    """A number, word or line of a text replaced, removed or repeated."""
    pieces = re.split(r"([\s\"=<>\[\],]+)", text)
    places = [k for k, piece in enumerate(pieces) if k % 2 == 0 and piece]
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.choice(places))
        options = ["nan", "inf", "-1", "1e300", "0", "", "a" * 1000, "<a", "\x00", "&#0;",
                   pieces[int(rng.choice(places))], pieces[place] * 2]  # fmt: skip
        pieces[place] = options[int(rng.integers(len(options)))]
    return "".join(pieces)


def compressed_zeros(block_bytes: int, repeats: int) -> bytes:
    """A raw deflate stream of ``block_bytes * repeats`` zeros, made in no time."""
    import zlib

    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = machine.compress(bytes(block_bytes)) + machine.flush(zlib.Z_FULL_FLUSH)
    return block * repeats + machine.flush(zlib.Z_FINISH)


def gzip_bomb(head: bytes, zeros: int) -> bytes:
    """A gzip file that begins with ``head`` and goes on with zeros."""
    import zlib

    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    first = machine.compress(head) + machine.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + first + compressed_zeros(1 << 24, zeros >> 24)


def zip_bomb(name: str, header: bytes, zeros: int, declared: int) -> bytes:
    """A zip whose one member expands to ``zeros`` bytes and declares another size."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, header + b"#" * 64)
    data = stream.getvalue()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        member = archive.infolist()[0]
        start = 30 + len(name)
        packed, rest = member.compress_size, data[start + member.compress_size :]
    body = compressed_zeros(1 << 24, zeros >> 24)

    def sizes(block: bytes, at: int) -> bytes:
        new = len(body).to_bytes(4, "little") + declared.to_bytes(4, "little")
        return block[:at] + new + block[at + 8 :]

    assert packed
    end = len(rest) - 22
    directory, tail = sizes(rest[:end], 20), bytearray(rest[end:])
    tail[16:20] = (start + len(body)).to_bytes(4, "little")
    return sizes(data[:start], 18) + body + directory + bytes(tail)


def as_json(value: object) -> str:
    """JSON text, NaN allowed: it is to be refused by the reader."""
    return json.dumps(value)
