"""Logs from strangers that cannot be used: each ends in one clear line, soon, and does no harm."""

from __future__ import annotations

import gzip
import importlib.util
import os
import pickle
import sqlite3
import time
import warnings
import zlib
from pathlib import Path

import log_files as files
import mutations
import numpy as np
import pytest
from test_log import full_log

from asap.log_import import open_log
from asap_deploy.errors import InputError

LIMIT_S = 2.0
HAS = {name: importlib.util.find_spec(name) is not None
       for name in ("h5py", "pyarrow", "mcap_ros2", "rosbags")}  # fmt: skip


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def outcome(path: Path, map_path: Path | None) -> str:
    """'log', or the line of the InputError; anything else is a fault of ours and says so."""
    before, start = listing(path.parent), time.process_time()
    text = "log"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        try:
            log = open_log(path, columns=map_path).log
            assert np.isfinite(log.joint_pos).all() and log.duration_s > 0.0
        except InputError as error:
            text = str(error)
            short = text.replace(str(path.parent), "")
            if len(text.splitlines()) != 1 or text.count("(file: ") != 1 or len(short) >= 420:
                text = f"FAULT: {len(text)} letters: {text[:400]!r}"
        except Exception as error:  # what a user would see as a traceback
            text = f"FAULT: {type(error).__name__}: {str(error)[:300]}"
    if time.process_time() - start > LIMIT_S:
        text = f"FAULT: took {time.process_time() - start:.1f} s: {text}"
    if listing(path.parent) != before:
        text = "FAULT: files changed"
    return text


def run(folder: Path, name: str, content: bytes, map_text: str | None) -> str:
    """Write a file and its map, and open it."""
    path, map_path = folder / name, folder / "map.toml"
    path.write_bytes(content)
    if map_text is not None:
        map_path.write_text(map_text)
    return outcome(path, None if map_text is None else map_path)


def npz(arrays: dict[str, object]) -> bytes:
    return mutations.npz_bytes(arrays)


def ours() -> dict[str, np.ndarray]:
    """Arrays of a file of our own."""
    log = full_log()
    arrays = {"format": np.array("asap-log"), "version": np.array(1), **log.fields}
    arrays |= {"joint_names": np.array(log.joint_names), "time_s": log.time_s}
    arrays |= {"joint_pos": log.joint_pos, "robot": np.array("g1")}
    return arrays


def spoiled_arrays(arrays: dict[str, np.ndarray], keys: tuple[str, ...]) -> dict[str, dict]:
    """Each array that must be there: absent, of another shape or type, or full of nonsense."""
    cases = {}
    for key in keys:
        array = arrays[key]
        odd: dict[str, object] = {
            "text": np.full(array.shape, "x"), "complex": array.astype(complex),
            "object": np.array([{"a": 1}, [2]], dtype=object), "scalar": np.array(1.0),
            "empty": array[:0], "deep": array[None, None], "huge": np.full(array.shape, 1e300),
            "nan": np.full(array.shape, np.nan), "short": array[: len(array) // 2],
        }  # fmt: skip
        cases[f"{key} absent"] = {k: v for k, v in arrays.items() if k != key}
        cases |= {f"{key} {what}": arrays | {key: value} for what, value in odd.items()}
    return cases


def spoiled_clocks(time_s: np.ndarray) -> dict[str, np.ndarray]:
    """Clocks that no robot has."""
    back = time_s.copy()
    back[5] = back[2]
    return {"back": back, "still": np.full_like(time_s, 5.0), "down": time_s[::-1],
            "in ms": time_s * 1e3, "in ns": time_s * 1e9, "too fast": time_s * 1e-4,
            "infinite": np.where(np.arange(len(time_s)) % 10 == 3, np.inf, time_s)}  # fmt: skip


def npz_cases() -> dict[str, tuple[str, bytes, str | None]]:
    """Ours, ASAP's listener and a foreign npz with a map."""
    cases: dict[str, tuple[str, bytes, str | None]] = {}
    own, listener, foreign = ours(), files.listener_arrays(12), files.array_content()
    kinds = (
        ("ours", own, ("time_s", "joint_pos"), None, "time_s"),
        ("listener", listener, ("time", "joint_pos", "joint_pos_cmd", "IMU_quaternion"), None,
         "time"),
        ("mapped", foreign, ("t", "q", "u"), files.ARRAY_MAP, "t"),
    )  # fmt: skip
    for kind, arrays, keys, text, clock in kinds:
        for name, spoiled in spoiled_arrays(arrays, keys).items():
            cases[f"{kind}: {name}"] = ("a.npz", npz(spoiled), text)
        for name, time_s in spoiled_clocks(arrays[clock]).items():
            if kind == "ours" and name in ("in ms", "in ns", "too fast"):
                continue  # a file of ours states its unit: the clock may be any
            cases[f"{kind}: clock {name}"] = ("a.npz", npz(arrays | {clock: time_s}), text)
        whole = npz(arrays)
        for part in (1, 4, 100, len(whole) // 2, len(whole) - 30):
            cases[f"{kind}: first {part} bytes"] = ("a.npz", whole[:part], text)
    del cases["listener: IMU_quaternion scalar"]  # two axes are asked for in the list above
    cases["listener: no attitude"] = (
        "a.npz", npz(listener | {"IMU_quaternion": np.full((12, 4), 3.0)}), None)  # fmt: skip
    cases["nothing known"] = ("a.npz", npz({"a": np.zeros(3)}), None)
    cases["version"] = ("a.npz", npz(own | {"version": np.array(9)}), None)
    return cases


def recorder_cases() -> dict[str, tuple[str, bytes, str | None]]:
    """ASAP's recorder."""
    content = files.recorder_clips(12, 1)
    clip = content["motion_0"]
    cases: dict[str, object] = {"list": [1, 2], "no clip": {}, "a number": 3, "flat": clip}
    for key in ("dof", "action", "root_rot", "root_trans_offset", "terminate", "fps"):
        nan = np.full(np.shape(clip[key]), np.nan)
        for what, value in (("text", "x"), ("short", np.zeros((3, 2))), ("none", None),
                            ("nan", nan), ("dict", {})):  # fmt: skip
            if (key, what) != ("terminate", "nan"):
                cases[f"{key} {what}"] = {"motion_0": clip | {key: value}}
        cases[f"{key} absent"] = {"motion_0": {k: v for k, v in clip.items() if k != key}}
    cases["rates"] = {"a": clip, "b": clip | {"fps": 30}}
    cases["no rows"] = {"a": {k: v[:2] if np.ndim(v) else v for k, v in clip.items()}}
    packed = {name: pickle.dumps(value, protocol=2) for name, value in cases.items()}
    whole = packed["flat"]
    packed |= {f"first {n} bytes": whole[:n] for n in (2, 50, 500, len(whole) - 5)}
    packed["gzip cut"] = gzip.compress(files.recorder_bytes())[:300]
    packed["other program"] = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
    return {f"recorder: {name}": ("a.pkl", data, None) for name, data in packed.items()}


def csv_cases() -> dict[str, tuple[str, bytes, str | None]]:
    """CSV files, and maps that do not fit them."""
    text = files.csv_text(12)
    lines = text.splitlines()

    def with_line(number: int, line: str) -> str:
        return "\n".join([*lines[:number], line, *lines[number + 1 :]]) + "\n"

    spoiled = {
        "empty": "", "spaces": " \n \n", "one line": lines[0] + "\n",
        "one row": "\n".join(lines[:2]), "no end": "1,2,3", "nul": "a,b\0c\n1,2\n",
        "ragged": with_line(4, "1,2,3"),
        "wide": with_line(4, lines[4] + ",9"), "word": with_line(4, "x" + lines[4]),
        "twice": text.replace("knee_pos", "hip_pos"),
        "renamed": text.replace("knee_pos", "nee_pos"),
        "empty cells": text.replace("0.", ","), "nan": text.replace("0.", "nan"),
        "quotes": with_line(3, '"' + lines[3]), "semicolons": text.replace(",", ";"),
        "backwards": "\n".join([lines[0], *lines[:0:-1]]) + "\n",
        "huge": text.replace("0.", "1e99"),
    }  # fmt: skip
    text_map = files.PLAIN_MAP
    cases = {f"csv: {name}": ("a.csv", t.encode(), text_map) for name, t in spoiled.items()}
    cases["csv: no map"] = ("a.csv", text.encode(), None)
    cases["csv: bad gzip"] = ("a.csv.gz", b"\x1f\x8b" + bytes(50), files.PLAIN_MAP)
    cases["csv: bomb"] = ("a.csv.gz", mutations.gzip_bomb(b"t,a\n", 1 << 30), files.PLAIN_MAP)
    cases["csv: columns"] = ("a.csv", b"1," * 300_000 + b"\n1,\n", files.PLAIN_MAP)
    s = files.signals(12)
    listed = files.list_csv(s["joint_pos"], s["time_s"])
    lists = files.LIST_MAP.replace('table = "state"', "").replace('table = "control"', "") \
        .replace("{ , ", "{ ").replace("{  , ", "{ ")  # fmt: skip
    first = listed.splitlines()[4].split('"')[1]
    for name, cell in (("short", "[1.0]"), ("text", "[a, b]"), ("open", "[1.0, 2.0"), ("no", "3"),
                       ("deep", "[" * 5000), ("null", "[null, 1, 2]"), ("dict", "[{}, 1, 2]"),
                       ("digits", f"[{'9' * 5000}, 1, 2]")):  # fmt: skip
        cases[f"lists: {name}"] = ("a.csv", listed.replace(first, cell).encode(), lists)
    return cases


def map_cases() -> dict[str, tuple[str, bytes, str | None]]:
    """Column maps that say what cannot be."""
    good, line = files.ARRAY_MAP, 'joint_pos = "q"'
    data = npz(files.array_content() | {"text": np.array(["a"] * 40), "k": np.zeros((40, 7))})
    texts = {
        "no toml": "a = [", "empty": "", "bytes": "\ufffd = 1", "deep": "a = " + "[" * 20_000,
        "unknown table": good + "[chanels]\n", "unknown channel": good + 'joint_position = "q"\n',
        "no joint_pos": good.replace(line, ""), "no time": good.replace('from = "t"', ""),
        "both times": good.replace('from = "t"', 'from = "t"\nrate_hz = 50'),
        "no such key": good.replace('"q"', '"qq"'), "text column": good.replace('"q"', '"text"'),
        "widths": good.replace('"q"', '"k"'), "names twice": good.replace("knee", "hip"),
        "names few": good.replace(', "ankle"', ""), "names number": good.replace('"hip"', "3"),
        "names from numbers": good.replace("names =", "from = \"q\" #"),
    }  # fmt: skip
    for key, value in (
        ("unit", '"degrees"'), ("unit", "3"), ("order", '"xyzw"'), ("sign", "2"),
        ("sign", "[1, 1]"), ("scale", "nan"), ("scale", '"2"'), ("offset", "[1, 2]"),
        ("times", '"k"'),
        ("take", "[9]"), ("take", "-1"), ("take", "[-1]"), ("names", '["a", "b", "c"]'),
        ("rows_later", "1000"), ("rows_later", "0.5"), ("rows_later", "100"), ("optional", "1"),
        ("table", '"other"'), ("constant", "3"), ("fron", '"q"'), ("only_if_equal", '"t"'),
        ("only_if_equal", '["zz"]'),
    ):  # fmt: skip
        entry = f'joint_pos = {{ from = "q", {key} = {value} }}'
        texts[f"{key} = {value}"] = good.replace(line, entry)
    for name, extra in (("rename", 'rename = { hop = "a" }'), ("flip", 'flip = ["hop"]'),
                        ("merged", 'rename = { hip = "knee" }')):  # fmt: skip
        texts[name] = good.replace("[time]", f"{extra}\n[time]")
    for name, extra in (("join", '[join]\nhow = "magic"'), ("age", "[join]\nmax_age_s = -1"),
                        ("messages", "[messages]\na = 1"), ("delimiter", '[file]\ndelimiter = ""'),
                        ("gain", '[channels.imu_ang_vel_b]\nconstant = 1')):  # fmt: skip
        texts[name] = f"{good}\n{extra}\n"
    return {f"map: {name}": ("a.npz", data, text) for name, text in texts.items()}


def container_cases() -> dict[str, tuple[str, bytes, str | None]]:
    """Formats whose readers are extras: cut, overwritten, or with other content."""
    cases: dict[str, tuple[str, bytes, str | None]] = {}
    sound = files.array_content()
    wrong = sound | {"q": np.zeros((40, 2))}
    spoiled = {
        f"{key} {what}": sound | {key: value}
        for key in ("t", "q")
        for what, value in (
            ("nan", np.full(sound[key].shape, np.nan)),
            ("huge", np.full(sound[key].shape, 1e300)),
            ("text", np.full(sound[key].shape, b"x")),
        )
    } | {f"{key} absent": {k: v for k, v in sound.items() if k != key} for key in ("t", "q")}
    spoiled |= {f"clock {what}": sound | {"t": time_s}
                for what, time_s in spoiled_clocks(sound["t"]).items()}  # fmt: skip
    if HAS["h5py"]:
        cases |= {f"hdf5: {name}": ("a.h5", files.hdf5_bytes(arrays), files.ARRAY_MAP)
                  for name, arrays in spoiled.items()}  # fmt: skip
        whole = files.hdf5_bytes()
        cases |= {f"hdf5: first {n}": ("a.h5", whole[:n], files.ARRAY_MAP)
                  for n in (8, 64, 600, len(whole) // 2)}  # fmt: skip
        cases["hdf5: width"] = ("a.h5", files.hdf5_bytes(wrong), files.ARRAY_MAP)
        cases["hdf5: no map"] = ("a.h5", whole, None)
    if HAS["pyarrow"]:
        whole = files.parquet_bytes()
        cases |= {f"parquet: {name}": ("a.parquet", files.parquet_bytes(arrays), files.ARRAY_MAP)
                  for name, arrays in spoiled.items() if "text" not in name}  # fmt: skip
        cases["parquet: no map"] = ("a.parquet", whole, None)
        cases |= {f"parquet: first {n}": ("a.parquet", whole[:n], files.ARRAY_MAP)
                  for n in (4, 64, len(whole) // 2, len(whole) - 4)}  # fmt: skip
        cases["parquet: width"] = ("a.parquet", files.parquet_bytes(wrong), files.ARRAY_MAP)
    if HAS["mcap_ros2"]:
        whole = files.mcap_bytes(compression="NONE")
        cases |= {f"mcap: first {n}": ("a.mcap", whole[:n], files.STATE_MAP) for n in (8, 30, 200)}
        odd = whole.replace(b"float64[] position", b"float64[] positoin")
        number = np.float64(files.signals()["joint_pos"][3, 0]).tobytes()
        changed = bytes([number[0] ^ 1]) + number[1:]  # only the check sum tells
        cases["mcap: digit"] = ("a.mcap", whole.replace(number, changed), files.STATE_MAP)
        cases["mcap: field"] = ("a.mcap", odd, files.STATE_MAP)
        cases["mcap: no map"] = ("a.mcap", whole, None)
        cases["mcap: flipped"] = ("a.mcap", whole.replace(b"knee", b"knie", 7), files.STATE_MAP)
        header = b"SQLite format 3\0"
        cases |= {f"sqlite: {name}": ("a.db3", data, files.STATE_MAP)
                  for name, data in (("empty", b""), ("first bytes", header[:9]),
                                     ("noise", header + bytes(range(256)) * 16))}  # fmt: skip
        cases["sqlite: header alone"] = ("a.db3", b"SQLite format 3\0" + bytes(84), files.STATE_MAP)
    return cases


def test_two_hundred_malformed_logs_end_in_one_line_each(tmp_path):
    cases = {**npz_cases(), **recorder_cases(), **csv_cases(), **map_cases(), **container_cases()}
    assert len(cases) >= 200
    folder = tmp_path / "here"
    folder.mkdir()
    results = {name: run(folder, *case) for name, case in cases.items()}
    for name, text in results.items():
        if "FAULT: took" in text:  # once more: a busy machine makes every page fault slow
            results[name] = run(folder, *cases[name])
    wrong = {name: text for name, text in results.items()
             if text == "log" or text.startswith("FAULT")}  # fmt: skip
    assert not wrong, "\n".join(f"{name}: {text}" for name, text in wrong.items())


@pytest.mark.parametrize("kind", ["npz", "listener", "pkl", "csv", "gz", "toml", "h5", "parquet",
                                  "mcap", "db3"])  # fmt: skip
def test_damaged_bytes_end_in_one_line_or_in_a_sound_log(kind, tmp_path, capfd):
    readers = {"h5": ["h5py"], "parquet": ["pyarrow"], "mcap": ["mcap_ros2"],
               "db3": ["rosbags", "mcap_ros2"]}  # fmt: skip
    for needed in readers.get(kind, []):
        if not HAS[needed]:
            pytest.skip(f"{needed} is missing: damaged .{kind} files are NOT tested")
    text, whole = whole_file(kind, tmp_path)
    folder = tmp_path / "here"
    folder.mkdir()
    assert run(folder, f"a.{kind}", whole, text) == "log"
    faults = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        if kind == "toml":
            text = mutations.damaged_text(files.ARRAY_MAP, rng)
        data = whole if kind == "toml" else mutations.damaged_bytes(whole, rng)
        result = run(folder, f"a.{kind}", data, text)
        if result.startswith("FAULT"):
            faults.append(f"seed {seed}: {result}")
    assert not faults, "\n".join(faults)
    assert capfd.readouterr() == ("", "")  # what a library has to say is in the line


def whole_file(kind: str, folder: Path) -> tuple[str | None, bytes]:
    """Column map and content of an undamaged file."""
    if kind in ("listener", "pkl"):
        listener = npz(files.listener_arrays(12))
        return None, listener if kind == "listener" else files.recorder_bytes()
    if kind in ("csv", "gz"):
        data = files.csv_text().encode()
        return files.PLAIN_MAP, gzip.compress(data) if kind == "gz" else data
    if kind == "mcap":
        return files.STATE_MAP, files.mcap_bytes(compression="LZ4")
    if kind == "db3":
        bag = next(files.write_bag(folder / "bag").glob("*.db3"))
        return (files.MAPS / "unitree_hg.toml").read_text(), bag.read_bytes()
    content = {"h5": files.hdf5_bytes, "parquet": files.parquet_bytes}
    write = content.get(kind, lambda: npz(files.array_content()))
    return files.ARRAY_MAP, write()


class Bomb:
    """Makes a folder when it is loaded by the usual reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_code_inside_a_log_never_runs(tmp_path):
    folder, marker = tmp_path / "here", tmp_path / "ran"
    folder.mkdir()
    bomb = Bomb(marker)
    clips, objects = files.recorder_clips(12, 1), np.array([bomb], dtype=object)
    plain = [pickle.dumps(bomb, protocol=p) for p in range(2, 6)]
    armed = {"motion_0": clips["motion_0"] | {"extra": bomb}}
    inside = [pickle.dumps(armed, protocol=p) for p in range(6)]
    for data in (*plain, *inside, zlib.compress(plain[2]), gzip.compress(inside[4])):
        assert "which could run code" in run(folder, "a.pkl", data, None)
        text = run(folder, "b.pkl", data, files.ARRAY_MAP)  # a gzip with a map is taken for a CSV
        assert "which could run code" in text or "is no text" in text
    for arrays, map_text in ((files.listener_arrays(12), None), (ours(), None),
                             (files.array_content(), files.ARRAY_MAP)):  # fmt: skip
        for key in arrays:
            text = run(folder, "a.npz", npz(arrays | {key: objects}), map_text)
            assert "pickled objects never" in text
    assert not marker.exists()
    pickle.loads(plain[2])  # the bomb is one: the usual reader sets it off
    assert marker.exists()


def test_hdf5_data_that_lie_in_another_file_are_not_read(tmp_path):
    h5py = pytest.importorskip("h5py", reason="h5py is missing: links in HDF5 are NOT tested")
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(120.0).tobytes())
    (tmp_path / "map.toml").write_text(files.ARRAY_MAP)
    content = files.array_content()
    for kind in ("external", "link", "virtual"):
        path = tmp_path / f"{kind}.h5"
        with h5py.File(path, "w") as file:
            file["t"], file["u"] = content["t"], content["u"]
            if kind == "external":
                stored = [(str(secret), 0, h5py.h5f.UNLIMITED)]
                file.create_dataset("q", (40, 3), "f8", external=stored)
            elif kind == "link":
                file["q"] = h5py.ExternalLink(str(tmp_path / "external.h5"), "q")
            else:
                layout = h5py.VirtualLayout((40, 3), "f8")
                layout[:] = h5py.VirtualSource(str(tmp_path / "external.h5"), "q", (40, 3))
                file.create_virtual_dataset("q", layout)
        text = outcome(path, tmp_path / "map.toml")
        assert "which is not read" in text or "no column 'q'" in text, (kind, text)


def test_a_bag_whose_tables_are_views_or_that_is_of_another_program_is_refused(tmp_path):
    pytest.importorskip("mcap_ros2", reason="mcap-ros2-support is missing: bags are NOT tested")
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS"
    columns = {"topics": "(id, name, type, serialization_format)",
               "messages": "(topic_id, timestamp, data)"}  # fmt: skip
    for name, statements in {
        "views": (f"CREATE VIEW topics AS {endless} id, 'a' AS name, 'b' AS type, 'cdr' AS "
                  "serialization_format FROM c",
                  f"CREATE VIEW messages AS {endless} topic_id, x AS timestamp, '' AS data FROM c"),
        "extension": [f"CREATE VIRTUAL TABLE {t} USING fts5{c}" for t, c in columns.items()],
        "other": ("CREATE TABLE a (b)",),
        "lacking": ("CREATE TABLE topics (id)", "CREATE TABLE messages (id)"),
        "empty": [f"CREATE TABLE {t} {c}" for t, c in columns.items()],
    }.items():  # fmt: skip
        with sqlite3.connect(tmp_path / f"{name}.db3") as connection:
            for statement in statements:
                connection.execute(statement)
        connection.close()
        (tmp_path / "map.toml").write_text(files.STATE_MAP)
        text = outcome(tmp_path / f"{name}.db3", tmp_path / "map.toml")
        expected = {"lacking": "no such column", "empty": "holds no ROS 2 message"}
        assert expected.get(name, "is no rosbag2 recording") in text, (name, text)


def test_a_definition_that_cannot_be_ends_in_one_line_and_nothing_is_printed(tmp_path, capfd):
    pytest.importorskip("rosbags", reason="rosbags is missing: definitions are NOT tested")
    pytest.importorskip("mcap_ros2", reason="mcap-ros2-support is missing: they are NOT tested")
    bag = next(files.write_bag(tmp_path / "bag", defines=False).glob("*.db3"))
    text = (files.MAPS / "unitree_hg.toml").read_text()
    for whole, broken in (("float32 kp", "flgat32 kp"), ("float32 kp", "string kp"),
                          ("MotorCmd[35]", "MotorCmd[99]"), ("float32 kp", "Odd kp")):  # fmt: skip
        (tmp_path / "map.toml").write_text(text.replace(whole, broken))
        assert "does not fit its definition" in outcome(bag, tmp_path / "map.toml"), broken
    assert capfd.readouterr() == ("", "")


def test_what_is_no_file_or_a_folder_of_something_else_is_said(tmp_path):
    (tmp_path / "map.toml").write_text(files.PLAIN_MAP)
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.npz").touch()
    (tmp_path / "two").mkdir()
    for stem in ("a", "b"):
        (tmp_path / "two" / f"{stem}.csv").write_text(files.csv_text())
    for name, columns, text in (
        ("nowhere", None, "file does not exist"),
        ("nothing.npz", None, "file is empty"),
        ("nothing.npz", "map.toml", "file is empty"),
        ("empty", None, "give a column map"),
        ("empty", "map.toml", "neither CSV files nor a rosbag2 recording"),
        ("two", "map.toml", "the folder holds 2 tables: say which with table ="),
        ("map.toml", None, "does not say what its columns mean"),
        ("two/a.csv", "nowhere.toml", "file does not exist"),
    ):
        map_path = None if columns is None else tmp_path / columns
        assert text in outcome(tmp_path / name, map_path), name
