"""Writes tests/data/g1_reference.npz: numbers of two public G1 descriptions at ten poses.

    python tests/make_g1_reference.py ../shared/data/g1_models

Only numbers are stored (frames and inertia at random joint positions), not the descriptions.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import mujoco
import numpy as np

SOURCES = {"g1": "mjlab_g1.xml", "g1:asap": "asap_g1_29dof.xml"}


def public_model(file: Path) -> mujoco.MjModel:
    """A public description without its meshes, motors' armature and scene."""
    text = file.read_text()
    text = re.sub(r"<mesh [^>]*/>", "", text)
    text = re.sub(r"<geom[^>]*mesh[^>]*/>", "", text)
    text = re.sub(r'<geom[^>]*class="visual"[^>]*/>', "", text)
    return mujoco.MjModel.from_xml_string(text)


def random_joint_pos(model: mujoco.MjModel, count: int, seed: int) -> dict[str, np.ndarray]:
    """Uniform in the joint ranges: (count,) [rad] per hinge joint."""
    rng = np.random.default_rng(seed)
    hinges = [i for i in range(model.njnt) if model.jnt_type[i] == mujoco.mjtJoint.mjJNT_HINGE]
    return {model.joint(i).name: rng.uniform(*model.jnt_range[i], size=count) for i in hinges}


def measure(model: mujoco.MjModel, joint_pos: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Frames and joint-space inertia (rows: base 6, then joints in the given order)."""
    model.dof_armature[:] = 0.0
    data = mujoco.MjData(model)
    dofs = np.r_[0:6, [model.joint(name).dofadr[0] for name in joint_pos]]
    frames = []
    for index in range(len(next(iter(joint_pos.values())))):
        data.qpos[:7] = [0, 0, 0, 1, 0, 0, 0]
        for name, values in joint_pos.items():
            data.qpos[model.joint(name).qposadr[0]] = values[index]
        mujoco.mj_forward(model, data)
        inertia = np.zeros((model.nv, model.nv))
        mujoco.mj_fullM(model, data, inertia)
        frames.append((data.xpos[1:].copy(), data.xquat[1:].copy(), inertia[np.ix_(dofs, dofs)]))
    pos, quat, inertia = (np.array(column) for column in zip(*frames, strict=True))
    return {"body_pos_w": pos, "body_quat_wxyz": quat, "inertia": inertia}


def reference(file: Path, count: int, seed: int) -> dict[str, np.ndarray]:
    """Everything a test compares, from one public file."""
    model = public_model(file)
    joint_pos = random_joint_pos(model, count, seed)
    return {
        "mass_kg": np.array(model.body_mass.sum()),
        "joint_names": np.array(list(joint_pos)),
        "joint_pos": np.array(list(joint_pos.values())).T,
        "body_names": np.array([model.body(i).name for i in range(1, model.nbody)]),
        **measure(model, joint_pos),
    }


if __name__ == "__main__":
    arrays = {
        f"{robot}/{key}": value.astype(np.float32) if key == "inertia" else value
        for robot, name in SOURCES.items()
        for key, value in reference(Path(sys.argv[1]) / name, 10, seed=0).items()
    }
    np.savez_compressed(Path(__file__).parent / "data" / "g1_reference.npz", **arrays)  # pyright: ignore[reportArgumentType]
