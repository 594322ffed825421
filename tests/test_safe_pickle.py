"""A pickle may come from anyone: it is read as data or refused, and never run."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import pickle
import random
import time
import zlib
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from asap.safe_pickle import load_pickle
from asap_deploy.errors import InputError

CONTENT = {
    "array": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
    "swapped": np.array([1.5, -2.0], dtype=">f4"),
    "text": np.array(["left", "right"]),
    "empty": np.zeros((0, 3)),
    "scalar": np.float32(2.5),
    "list": [1, -2.5, "x", None, True, (1, (2, 3)), b"ab", 10**30],
    7: {"inner": OrderedDict(fps=30)},
}


class Payload:
    """Pickles as a call that creates a file, as malicious files do."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def written(folder: Path, data: bytes) -> Path:
    path = folder / "motion.pkl"
    path.write_bytes(data)
    return path


def same(left, right) -> bool:
    if isinstance(right, dict):
        return list(left) == list(right) and all(same(left[k], right[k]) for k in right)
    if isinstance(right, np.ndarray):
        kinds = [array.dtype.newbyteorder("=") for array in (left, right)]
        return kinds[0] == kinds[1] and np.array_equal(left, right)
    return left == right


def joblib_bytes(shape: tuple[int, ...], raw: bytes, *, padding: int | None = None) -> bytes:
    """What joblib writes for {"dof": array}: the array's bytes follow the BUILD instruction."""

    def piece(value) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    state = [("subclass", b"cnumpy\nndarray\n"), ("shape", piece(shape)), ("order", piece("C")),
             ("dtype", piece(np.dtype("<f8"))), ("allow_mmap", piece(True))]  # fmt: skip
    behind = b""
    if padding is not None:
        state.append(("numpy_array_alignment_bytes", piece(16)))
        behind = bytes([padding]) + b"\xff" * padding
    body = b"".join(piece(key) + value for key, value in state)
    wrapper = b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81"
    return b"\x80\x02}" + piece("dof") + wrapper + b"}(" + body + b"ub" + behind + raw + b"s."


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_what_pickle_gives(tmp_path, protocol):
    data = pickle.dumps(CONTENT, protocol)
    assert same(load_pickle(written(tmp_path, data)), pickle.loads(data))


@pytest.mark.parametrize("pack", [zlib.compress, gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_are_read(tmp_path, pack):
    assert same(load_pickle(written(tmp_path, pack(pickle.dumps(CONTENT)))), CONTENT)


@pytest.mark.parametrize("padding", [None, 0, 5])
def test_joblib_arrays_are_read_without_joblib(tmp_path, padding):
    array = np.arange(6.0).reshape(2, 3)
    path = written(tmp_path, joblib_bytes((2, 3), array.tobytes(), padding=padding))
    assert np.array_equal(load_pickle(path)["dof"], array)


def test_published_joblib_clips_are_read(shared_data):
    for path in sorted((shared_data / "asap" / "motions").glob("*.pkl")):
        (clip,) = load_pickle(path).values()
        assert clip["dof"].shape[1] == 23 and clip["fps"] == 30
        assert np.abs(np.linalg.norm(clip["root_rot"], axis=1) - 1).max() < 1e-3


@pytest.mark.parametrize("protocol", range(6))
def test_code_in_a_pickle_is_named_and_never_runs(tmp_path, protocol):
    target = tmp_path / "ran"
    data = pickle.dumps({"dof": Payload(f"touch {target}")}, protocol)
    with pytest.raises(InputError, match=r"posix\.system.*could run code"):
        load_pickle(written(tmp_path, data))
    assert not target.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(S'a'\nS'b'\ntR.",
        b"(S'x'\nios\nsystem\n.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.",
        b"\x80\x02P1\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x04\x8c\x08builtins\x8c\x04exec\x93.",
        b"\x80\x02cnumpy\nndarray\n.",
        b"\x80\x02cnumpy\nndarray\n)R.",
        b"\x80\x02cnumpy\ndtype\n.",
    ],
)
def test_names_persistent_ids_extensions_and_bare_types_are_refused(tmp_path, data):
    with pytest.raises(InputError, match="pickle"):
        load_pickle(written(tmp_path, data))


def test_arrays_of_objects_and_structures_are_refused(tmp_path):
    for array in (np.array([None, 1], dtype=object), np.zeros(2, dtype=[("a", "f8")])):
        with pytest.raises(InputError, match="pickle"):
            load_pickle(written(tmp_path, pickle.dumps(array)))


def test_a_compressed_bomb_is_stopped_at_the_size_limit(tmp_path):
    bomb = zlib.compress(pickle.dumps(b"\0" * (8 << 20)))
    with pytest.raises(InputError, match="expands to more than 1 MB"):
        load_pickle(written(tmp_path, bomb), max_bytes=1 << 20)
    with pytest.raises(InputError, match="larger than 1 MB"):
        load_pickle(written(tmp_path, b"\x80" + b"\0" * (2 << 20)), max_bytes=1 << 20)


def test_declared_shapes_beyond_the_file_take_no_memory(tmp_path):
    for shape in ((1 << 39, 1 << 39), (10**6, 10**6), (-1, 3), (2,) * 40):
        with pytest.raises(InputError):
            load_pickle(written(tmp_path, joblib_bytes(shape, b"")))


def test_shared_and_deep_structures_take_bounded_time(tmp_path):
    laughs: list = [0]
    for _ in range(20):
        laughs = [laughs, laughs]
    deep_bytes = b"\x80\x02" + b"]" * 30_000 + b"a" * 29_999 + b"."
    begin = time.perf_counter()
    assert load_pickle(written(tmp_path, pickle.dumps(laughs)))[0] is not None
    with pytest.raises(InputError, match="nested deeper"):
        load_pickle(written(tmp_path, deep_bytes))
    with pytest.raises(InputError, match="instructions"):
        load_pickle(written(tmp_path, b"\x80\x02" + b"N" * 20_000_000 + b"."))
    with pytest.raises(InputError, match="key"):
        load_pickle(written(tmp_path, pickle.dumps({(1, (2, 3)): 1})))
    assert time.perf_counter() - begin < 4.0


def test_damaged_files_end_in_input_errors_whatever_is_damaged(tmp_path):
    rng = random.Random(0)
    for whole in (pickle.dumps(CONTENT, 4), joblib_bytes((2, 3), bytes(48), padding=3)):
        for stop in range(0, len(whole), 5):
            with pytest.raises(InputError):
                load_pickle(written(tmp_path, whole[:stop]))
        for _ in range(200):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            try:
                load_pickle(written(tmp_path, bytes(data)))
            except InputError as error:
                assert "\n" not in str(error) and "motion.pkl" in str(error)


def test_missing_files_folders_and_empty_files_are_said(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_pickle(tmp_path / "absent.pkl")
    with pytest.raises(InputError, match="folder"):
        load_pickle(tmp_path)
    with pytest.raises(InputError, match="not a readable pickle"):
        load_pickle(written(tmp_path, b""))
