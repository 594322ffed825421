"""Files from strangers: each ends in one clear line or in a sound object, soon, and does no harm.

Seeded damage to every kind of file that the toolkit reads. Whatever happens, no code of the file
runs, nothing is written, no other exception than InputError leaves, and no file takes 2 s.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import mutations
import numpy as np
import onnx
import pytest
from test_log import full_log
from toy_robots import _STOOL, _STOOL_TOML

from asap import onnx_file
from asap.export import adopt
from asap.motions import import_motion
from asap.robot import Robot
from asap_deploy import golden
from asap_deploy.contract import PolicyContract
from asap_deploy.errors import InputError
from asap_deploy.log import Log
from asap_deploy.motion import Motion
from asap_deploy.npz import load_npz
from asap_deploy.policy import Policy
from policies import golden_text, robot, toy_motion, toy_network, toy_policy_bytes, with_contract

LIMIT_S = 2.0
SMALL = 24
"""Frames of the motions that are damaged."""


# What a file that loads in spite of its damage must still satisfy.


def sound_motion(path: Path) -> None:
    motion = Motion.load(path)
    assert motion.replace().sha256 == motion.sha256
    assert np.isfinite(motion.at(np.linspace(-1.0, 100.0, 7)).joint_pos).all()


def sound_log(path: Path) -> None:
    log = Log.load(path)
    assert np.isfinite(log.joint_pos).all() and log.duration_s > 0.0 and log.rate_hz > 0.0


def sound_import(path: Path) -> None:
    motion = import_motion(path, robot("g1:asap"))
    assert motion.joint_names == robot("g1:asap").joint_names
    assert np.isfinite(motion.body_pos_w).all() and motion.num_frames >= 2


def sound_policy(path: Path) -> None:
    policy = golden.load_policy(path)
    assert np.isfinite(
        policy.act(np.zeros((1, len(policy.contract.element_names)), np.float32))
    ).all()


def sound_adoption(path: Path) -> None:
    data = adopt(path.read_bytes(), robot("g1:asap"), toy_motion(), layout="asap")
    golden.verify(Policy.from_bytes(data))


def sound_contract(path: Path) -> None:
    contract = PolicyContract.from_json(path.read_text(encoding="utf-8", errors="replace"))
    assert PolicyContract.from_json(contract.to_json()) == contract


def sound_robot(path: Path) -> None:
    body = Robot.load(str(path.parent))
    assert body.model.nq >= len(body.joint_names) and isinstance(body.check(), list)
    assert np.isfinite(body.default_qpos()).all()
    for field in ("stiffness", "damping", "armature", "default_joint_pos"):
        assert np.isfinite(getattr(body, field)).all()


def listing(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


def judged(load: Callable[[Path], None], path: Path) -> str:
    """What is wrong with the way in which a damaged file was treated; empty if nothing is."""
    before, start = listing(path.parent), time.process_time()
    complaint = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        try:
            load(path)
        except InputError as error:
            text = str(error).replace(str(path.parent), "")
            lines, paths = len(text.splitlines()), text.count("(file: ")
            if lines != 1 or paths > 1 or len(text) >= 400 or "Traceback" in text:
                complaint = f"text of {len(text)} letters: {text[:500]!r}"
        except Exception as error:  # what a user would see as a traceback
            complaint = f"{type(error).__name__}: {str(error)[:300]}"
    spent = time.process_time() - start
    if spent > LIMIT_S:
        complaint += f" took {spent:.1f} s"
    if listing(path.parent) != before:
        complaint += f" left {listing(path.parent) ^ before}"
    return complaint


def trial(load, path: Path, cases: dict[str, bytes]) -> None:
    """Every damaged content, written to the same place and read."""
    complaints = []
    for name, content in cases.items():
        path.write_bytes(content)
        complaint = judged(load, path)
        if " took " in complaint:  # once more: a busy machine makes every page fault slow
            complaint = judged(load, path)
        if complaint:
            complaints.append(f"{name}: {complaint}")
    assert not complaints, "\n".join([f"{len(complaints)} of {len(cases)}:", *complaints])


def small_motion() -> Motion:
    return toy_motion("g1:asap", SMALL)


def stored(thing: Motion | Log, folder: Path) -> dict[str, np.ndarray]:
    thing.save(folder / "whole.npz")
    arrays = load_npz(folder / "whole.npz")
    (folder / "whole.npz").unlink()
    return arrays


def asap_pickle(protocol: int = 2) -> bytes:
    """A clip as the authors store theirs, but as a plain pickle."""
    motion = small_motion()
    joints = [k for k, name in enumerate(motion.joint_names) if "wrist" not in name]
    clip = {
        "root_trans_offset": motion.base_pos_w.astype(np.float32),
        "root_rot": np.roll(motion.base_quat_wxyz, -1, axis=-1),
        "dof": motion.joint_pos[:, joints].astype(np.float32),
        "fps": 30,
    }
    return pickle.dumps({"clip": clip}, protocol=protocol)


def csv_text() -> str:
    motion = small_motion()
    quat_xyzw = np.roll(motion.base_quat_wxyz, -1, axis=-1)
    table = np.concatenate([motion.base_pos_w, quat_xyzw, motion.joint_pos], axis=1)
    return "\n".join(",".join(f"{value:.6f}" for value in row) for row in table) + "\n"


def beyondmimic_arrays() -> dict[str, np.ndarray]:
    motion = small_motion()
    return {
        "fps": np.array([30]),
        "joint_pos": motion.joint_pos.astype(np.float32),
        "joint_vel": motion.joint_vel.astype(np.float32),
        "body_pos_w": motion.body_pos_w.astype(np.float32),
        "body_quat_w": motion.body_quat_wxyz.astype(np.float32),
        "body_lin_vel_w": motion.body_lin_vel_w.astype(np.float32),
        "body_ang_vel_w": motion.body_ang_vel_w.astype(np.float32),
    }


def whole_files(folder: Path) -> dict[str, tuple[Callable, str, bytes]]:
    """Loader, file name and undamaged content of every kind of file."""
    foreign = onnx_file.with_metadata(toy_network(380, 23), {})
    npz = mutations.npz_bytes
    return {
        "motion": (sound_motion, "a.npz", npz(stored(small_motion(), folder))),
        "log": (sound_log, "a.npz", npz(stored(full_log(), folder))),
        "asap pkl": (sound_import, "a.pkl", asap_pickle()),
        "asap pkl 5": (sound_import, "a.pkl", asap_pickle(5)),
        "packed pkl": (sound_import, "a.pkl", zlib.compress(asap_pickle())),
        "csv": (sound_import, "a.csv", csv_text().encode()),
        "foreign npz": (sound_import, "a.npz", npz(beyondmimic_arrays())),
        "policy": (sound_policy, "a.onnx", toy_policy_bytes()),
        "foreign policy": (sound_adoption, "a.onnx", foreign),
        "contract": (sound_contract, "a.json", Policy.from_bytes(
            toy_policy_bytes()).contract.to_json().encode()),
        "robot.toml": (sound_robot, "robot.toml", _STOOL_TOML.encode()),
        "robot.xml": (sound_robot, "robot.xml", _STOOL.encode()),
    }  # fmt: skip


KINDS = ["motion", "log", "asap pkl", "asap pkl 5", "packed pkl", "csv", "foreign npz", "policy",
         "foreign policy", "contract", "robot.toml", "robot.xml"]  # fmt: skip


def prepared(kind: str, folder: Path) -> tuple[Callable, Path, bytes]:
    """Loader, place and content; a robot's folder gets the file that is not damaged."""
    load, name, content = whole_files(folder)[kind]
    if name.startswith("robot"):
        (folder / "robot.toml").write_text(_STOOL_TOML)
        (folder / "robot.xml").write_text(_STOOL)
    return load, folder / name, content


@pytest.mark.parametrize("kind", KINDS)
def test_an_undamaged_file_of_each_kind_is_read(kind, tmp_path):
    load, path, content = prepared(kind, tmp_path)
    path.write_bytes(content)
    load(path)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_bytes_end_in_one_line_or_in_a_sound_object(kind, tmp_path):
    load, path, content = prepared(kind, tmp_path)
    cases = {
        f"seed {seed}": mutations.damaged_bytes(content, np.random.default_rng(seed))
        for seed in range(25)
    }
    trial(load, path, cases)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *((kind, mutations.damaged_inside) for kind in ("motion", "log", "foreign npz")),
        *((kind, mutations.damaged_head) for kind in ("policy", "foreign policy", "asap pkl")),
    ],
)
def test_damage_behind_a_whole_wrapping_does_so_too(kind, damage, tmp_path):
    load, path, content = prepared(kind, tmp_path)
    cases = {
        f"seed {seed}": damage(content, np.random.default_rng(seed)) for seed in range(200, 240)
    }
    trial(load, path, cases)


def test_letters_that_are_no_letters_are_refused(tmp_path):
    arrays = stored(small_motion(), tmp_path)
    names = np.array(arrays["joint_names"])
    names.view("<u4")[5] = 0x7FFFFFFF
    for key, array in (("joint_names", names), ("format", names), ("source", names)):
        content = mutations.npz_bytes(arrays | {key: array})
        trial(sound_motion, tmp_path / "a.npz", {key: content})
        with pytest.raises(InputError, match=f"array '{key}' holds what is no text"):
            Motion.load(tmp_path / "a.npz")


@pytest.mark.parametrize("kind", ["motion", "log", "foreign npz"])
def test_damaged_arrays_end_in_one_line_or_in_a_sound_object(kind, tmp_path):
    load, path, _ = prepared(kind, tmp_path)
    arrays = {
        "motion": lambda: stored(small_motion(), tmp_path),
        "log": lambda: stored(full_log(), tmp_path),
        "foreign npz": beyondmimic_arrays,
    }[kind]()
    cases = {
        f"seed {seed}": mutations.npz_bytes(
            mutations.damaged_arrays(arrays, np.random.default_rng(seed))
        )
        for seed in range(40)
    }
    trial(load, path, cases)


def test_damaged_arrays_in_a_pickle_end_in_one_line_or_in_a_sound_object(tmp_path):
    clip = pickle.loads(asap_pickle())["clip"]
    cases = {
        f"seed {seed}": pickle.dumps(
            {"clip": mutations.damaged_arrays(clip, np.random.default_rng(seed))}
        )
        for seed in range(40)
    }
    trial(sound_import, tmp_path / "a.pkl", cases)


def test_damaged_contracts_end_in_one_line_or_in_a_sound_object(tmp_path):
    raw = json.loads(prepared("contract", tmp_path)[2])
    cases = {
        f"seed {seed}": mutations.as_json(
            mutations.damaged_json(raw, np.random.default_rng(seed))
        ).encode()
        for seed in range(60)
    }
    trial(sound_contract, tmp_path / "a.json", cases)


def test_damaged_contracts_and_golden_vectors_inside_a_policy_do_too(tmp_path):
    data = toy_policy_bytes()
    contract = json.loads(prepared("contract", tmp_path)[2])
    vectors = json.loads(golden_text(data))
    cases = {}
    for seed in range(30):
        rng = np.random.default_rng(seed)
        if seed % 2:
            text = mutations.as_json(mutations.damaged_json(contract, rng))
            cases[f"contract {seed}"] = with_contract(data, text)
        else:
            text = mutations.as_json(mutations.damaged_json(vectors, rng))
            whole = mutations.as_json(contract)
            cases[f"golden {seed}"] = with_contract(data, whole, **{"asap.golden": text})
    trial(sound_policy, tmp_path / "a.onnx", cases)


@pytest.mark.parametrize("kind", ["robot.toml", "robot.xml", "csv"])
def test_texts_with_awful_words_end_in_one_line_or_in_a_sound_object(kind, tmp_path):
    load, path, content = prepared(kind, tmp_path)
    cases = {
        f"seed {seed}": mutations.damaged_text(
            content.decode(), np.random.default_rng(seed)
        ).encode()
        for seed in range(40)
    }
    trial(load, path, cases)


class Bomb:
    """An object whose pickle makes a folder when it is loaded by the usual reader."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_code_inside_a_file_never_runs(tmp_path):
    marker = tmp_path / "ran"
    bomb = Bomb(marker)
    clip = pickle.loads(asap_pickle())["clip"]
    plain = [pickle.dumps(bomb, protocol=p) for p in range(6)]
    inside = [pickle.dumps({"clip": clip | {"extra": bomb}}, protocol=p) for p in range(6)]
    objects = np.array([bomb], dtype=object)
    trial(sound_import, tmp_path / "a.pkl", {
        **{f"bomb {k}": data for k, data in enumerate(plain + inside)},
        "packed": zlib.compress(plain[2]),
        "object array": pickle.dumps({"clip": clip | {"dof": objects}}),
    })  # fmt: skip
    for load, arrays in (
        (sound_motion, stored(small_motion(), tmp_path)),
        (sound_log, stored(full_log(), tmp_path)),
        (sound_import, beyondmimic_arrays()),
    ):
        cases = {key: mutations.npz_bytes(arrays | {key: objects}) for key in arrays}
        trial(load, tmp_path / "a.npz", cases)
    assert not marker.exists()
    # The bomb is one: the usual reader sets it off.
    pickle.loads(plain[2])
    assert marker.exists()


def test_files_that_expand_or_declare_without_bounds_are_refused_soon(tmp_path):
    header = io.BytesIO()
    shape = {"descr": "<f8", "fortran_order": False, "shape": (1 << 28,)}
    np.lib.format.write_array_header_1_0(header, shape)
    two_gb = 1 << 31
    npz = {
        "declares 2 GB": mutations.zip_bomb("a.npy", header.getvalue(), two_gb, two_gb),
        "declares little": mutations.zip_bomb("a.npy", header.getvalue(), two_gb, 4096),
    }
    assert all(len(data) < 3_000_000 for data in npz.values())
    for load in (sound_motion, sound_log, sound_import):
        trial(load, tmp_path / "a.npz", npz)
    head = asap_pickle()[:-1] + b"B\xff\xff\xff\x7f"
    packed = {
        "gzip": mutations.gzip_bomb(head, two_gb),
        "zlib": b"\x78\xda" + mutations.compressed_zeros(1 << 24, two_gb >> 24),
        "lists": b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
        "tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
        "laughs": b"\x80\x02]" + b"(" + b"2222222222l" * 20_000 + b".",
        "long": b"\x80\x02\x8b\x00\x00\x00\x10" + bytes(64),
        "digits": b"I" + b"9" * 1_000_000 + b"\n.",
    }
    trial(sound_import, tmp_path / "a.pkl", packed)
    csv = {"columns": b"1," * 1_000_000, "rows": b"1\n" * 2_000_000, "one line": b"9" * 10_000_000}
    trial(sound_import, tmp_path / "a.csv", csv)


def test_deep_and_endless_texts_are_refused_soon(tmp_path):
    raw = json.loads(prepared("contract", tmp_path)[2])
    contracts = {
        "deep": b'{"schema_version": ' + b"[" * 200_000,
        "deep dict": b'{"a":' * 200_000,
        "digits": b'{"schema_version": ' + b"9" * 1_000_000 + b"}",
        "joints": json.dumps(raw | {"joint_names": [str(k) for k in range(100_000)]}).encode(),
        "elements": json.dumps(raw | {"element_names": ["a"] * 300_000}).encode(),
        "links": json.dumps(raw | {"anchor_chain": raw["anchor_chain"] * 20_000}).encode(),
        "one key": json.dumps(raw | {"k" * 1_000_000: 1}).encode(),
    }
    trial(sound_contract, tmp_path / "a.json", contracts)
    load, path, _ = prepared("robot.toml", tmp_path)
    trial(load, path, {
        "deep": b"a = " + b"[" * 100_000,
        "dotted": b"a" + b".a" * 5000 + b" = 1",
        "digits": b"physics_dt = " + b"9" * 100_000,
        "variants": b"".join(b"[variants.v%d]\n" % k for k in range(5000)),
        "outside": b'mjcf = "../../../../etc/passwd"',
        "absolute": b'mjcf = "/etc/passwd"',
    })  # fmt: skip
    load, path, _ = prepared("robot.xml", tmp_path)
    laughs = b"".join(b'<!ENTITY l%d "%s">' % (k + 1, b"&l%d;" % k * 10) for k in range(9))
    body = b'<body name="b"><geom size="1"/>'
    trial(load, path, {
        "entities": b'<!DOCTYPE x [<!ENTITY l0 "lol">' + laughs + b"]><mujoco>&l9;</mujoco>",
        "file entity": b'<!DOCTYPE x [<!ENTITY f SYSTEM "/etc/passwd">]><mujoco>&f;</mujoco>',
        "deep": b"<mujoco><worldbody>" + body * 20_000,
        "deep and whole": b"<mujoco><worldbody>" + body * 5000 + b"</body>" * 5000
        + b"</worldbody></mujoco>",
        "include": b'<mujoco><include file="/etc/passwd"/></mujoco>',
        "includes itself": b'<mujoco><include file="robot.xml"/></mujoco>',
        "mesh": b'<mujoco><asset><mesh file="/etc/passwd"/></asset></mujoco>',
        "plugin": b'<mujoco><extension><plugin plugin="a"/></extension></mujoco>',
    })  # fmt: skip


def test_a_policy_full_of_operators_is_treated_soon(tmp_path):
    model = onnx.load_model_from_string(toy_policy_bytes())
    for k in range(20_000):
        source = "obs" if k == 0 else f"n{k - 1}"
        model.graph.node.append(onnx.helper.make_node("Relu", [source], [f"n{k}"]))
    trial(sound_policy, tmp_path / "a.onnx", {"many nodes": model.SerializeToString()})
