"""The vector that a policy sees, built by one function for one robot and for N simulated ones.

A layout is a list of named terms. Every term gives a block of numbers from what a robot measures;
the blocks are scaled, and a layout may append the same blocks of past steps. Training and the
robot call this file, so there is no second copy that could differ.

    builder = ObservationBuilder(LAYOUTS["asap"], sizes, num_robots=1)
    observation = builder.build(inputs)            # (1, 380) float32; remembers the frame
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from asap_deploy import rotation
from asap_deploy.errors import InputError, suggestion

OBSERVATION_LIMIT = 100.0
"""Observations are clipped to +- this, as in training of the original."""


class Measurement(NamedTuple):
    """What sensors gave for N robots, before any observation is built; float64."""

    joint_pos: np.ndarray
    """(N, J) [rad]"""
    joint_vel: np.ndarray
    """(N, J) [rad/s]"""
    base_quat_wxyz: np.ndarray
    """(N, 4) attitude of the base"""
    base_ang_vel_b: np.ndarray
    """(N, 3) gyroscope, in the base frame [rad/s]"""
    base_pos_w: Optional[np.ndarray] = None
    """(N, 3) where a state estimator knows it, else None [m]"""
    base_lin_vel_w: Optional[np.ndarray] = None
    """(N, 3) in the world frame, else None [m/s]"""


class ReferenceInput(NamedTuple):
    """The reference that some layouts show to the actor, already turned to the robot's heading."""

    joint_pos: np.ndarray
    joint_vel: np.ndarray
    anchor_pos_b: Optional[np.ndarray]
    """(N, 3) from the robot's anchor to the reference's, in the robot's anchor frame [m]"""
    anchor_quat_b: np.ndarray
    """(N, 4) attitude of the reference's anchor in the robot's anchor frame"""


class Command(NamedTuple):
    """What an operator asks of a walking policy, N rows."""

    lin_vel_b: np.ndarray
    """(N, 2) forward and left [m/s]"""
    ang_vel: np.ndarray
    """(N, 1) yaw rate [rad/s]"""
    base_height: np.ndarray
    """(N, 1) [m]"""
    walk: np.ndarray
    """(N, 1) 1 walks, 0 stands"""


class ObservationInputs(NamedTuple):
    """All that a term may read; joints are the layout's observed joints, in the policy's order."""

    measurement: Measurement
    default_joint_pos: np.ndarray
    """(J,) [rad]"""
    last_action: np.ndarray
    """(N, A) unscaled network output of the step before, zero after a reset"""
    phase: np.ndarray
    """(N,) progress in the motion, or in the gait for a walking policy"""
    reference: Optional[ReferenceInput] = None
    command: Optional[Command] = None
    held_joint_pos: Optional[np.ndarray] = None
    """(N, H) targets of the joints that the policy does not command [rad]"""


class Sizes(NamedTuple):
    """What the widths of terms depend on."""

    joints: int
    actions: int
    held: int = 0


class Term(NamedTuple):
    """One block of an observation: its width, its scale and where it comes from."""

    width: Callable[[Sizes], int]
    scale: float
    read: Callable[[ObservationInputs], np.ndarray]


def _command(inputs: ObservationInputs) -> Command:
    assert inputs.command is not None, "this layout needs a Command"
    return inputs.command


def _reference(inputs: ObservationInputs) -> ReferenceInput:
    assert inputs.reference is not None, "this layout needs a reference"
    return inputs.reference


def _joint_pos(inputs: ObservationInputs) -> np.ndarray:
    return inputs.measurement.joint_pos - inputs.default_joint_pos


def _base_lin_vel_b(inputs: ObservationInputs) -> np.ndarray:
    velocity_w = inputs.measurement.base_lin_vel_w
    assert velocity_w is not None, "this layout needs the base velocity"
    return rotation.rotate_inverse(inputs.measurement.base_quat_wxyz, velocity_w)


def _anchor_pos_b(inputs: ObservationInputs) -> np.ndarray:
    position = _reference(inputs).anchor_pos_b
    assert position is not None, "this layout needs the base position"
    return position


def _anchor_rot6d(inputs: ObservationInputs) -> np.ndarray:
    """First two columns of the rotation matrix, flattened row by row."""
    matrix = rotation.to_matrix(_reference(inputs).anchor_quat_b)
    return matrix[..., :2].reshape(len(matrix), 6)


def _angle(inputs: ObservationInputs) -> np.ndarray:
    return 2.0 * np.pi * inputs.phase[:, None]


def _held(inputs: ObservationInputs) -> np.ndarray:
    assert inputs.held_joint_pos is not None, "this layout needs the targets of the held joints"
    return inputs.held_joint_pos


def _fixed(width: int) -> Callable[[Sizes], int]:
    return lambda sizes: width


def _joints(sizes: Sizes) -> int:
    return sizes.joints


def _actions(sizes: Sizes) -> int:
    return sizes.actions


TERMS: Dict[str, Term] = {
    "actions": Term(_actions, 1.0, lambda i: i.last_action),
    # MuJoCo's qvel[3:6] and the G1's gyroscope are both in the base frame already: rotating
    # them again makes the published policies fall within half a second.
    "base_ang_vel": Term(_fixed(3), 0.25, lambda i: i.measurement.base_ang_vel_b),
    "dof_pos": Term(_joints, 1.0, _joint_pos),
    "dof_vel": Term(_joints, 0.05, lambda i: i.measurement.joint_vel),
    "projected_gravity": Term(
        _fixed(3), 1.0, lambda i: rotation.projected_gravity(i.measurement.base_quat_wxyz)
    ),
    "ref_motion_phase": Term(_fixed(1), 1.0, lambda i: i.phase[:, None]),
    # asap-loco
    "command_ang_vel": Term(_fixed(1), 1.0, lambda i: _command(i).ang_vel),
    "command_base_height": Term(_fixed(1), 2.0, lambda i: _command(i).base_height),
    "command_lin_vel": Term(_fixed(2), 1.0, lambda i: _command(i).lin_vel_b),
    "command_stand": Term(_fixed(1), 1.0, lambda i: _command(i).walk),
    "cos_phase": Term(_fixed(1), 1.0, lambda i: np.cos(_angle(i))),
    "sin_phase": Term(_fixed(1), 1.0, lambda i: np.sin(_angle(i))),
    "ref_upper_dof_pos": Term(lambda sizes: sizes.held, 1.0, _held),
    # beyondmimic, unscaled
    "command": Term(
        lambda sizes: 2 * sizes.joints,
        1.0,
        lambda i: np.concatenate([_reference(i).joint_pos, _reference(i).joint_vel], axis=-1),
    ),
    "motion_anchor_pos_b": Term(_fixed(3), 1.0, _anchor_pos_b),
    "motion_anchor_ori_b": Term(_fixed(6), 1.0, _anchor_rot6d),
    "base_lin_vel": Term(_fixed(3), 1.0, _base_lin_vel_b),
    "base_ang_vel_unscaled": Term(_fixed(3), 1.0, lambda i: i.measurement.base_ang_vel_b),
    "joint_pos": Term(_joints, 1.0, _joint_pos),
    "joint_vel": Term(_joints, 1.0, lambda i: i.measurement.joint_vel),
}

HISTORY = "history"


@dataclass(frozen=True)
class ObservationLayout:
    """Which terms make an observation, in which order."""

    name: str
    terms: Tuple[str, ...]
    """Blocks in their order; ``history`` stands where the past frames go."""
    history_length: int = 0
    """Number of past frames of every term, the present one excluded."""
    observes_all_joints: bool = True
    """False: only the joints that the policy commands."""
    needs_reference: bool = False
    needs_base_pos: bool = False
    needs_command: bool = False
    gait_period_s: Optional[float] = None
    """Where the phase is that of a gait and not of a motion."""

    def frame_terms(self) -> Tuple[str, ...]:
        """The terms of one step, without the history."""
        return tuple(term for term in self.terms if term != HISTORY)

    def frame_slices(self, sizes: Sizes) -> Dict[str, slice]:
        """Where each term lies within the numbers of one step."""
        slices, start = {}, 0
        for term in self.frame_terms():
            stop = start + TERMS[term].width(sizes)
            slices[term] = slice(start, stop)
            start = stop
        return slices

    def width(self, sizes: Sizes) -> int:
        """Length of the observation."""
        return len(self.gather(sizes))

    def gather(self, sizes: Sizes) -> np.ndarray:
        """Indices that pick the observation from [present frame, past frames newest first].

        The past is stored term by term: within ``history`` all four frames of one term come
        before the next term, the newest frame first. The published policies fall within 0.6 s
        when frames and terms are swapped.
        """
        slices = self.frame_slices(sizes)
        frame_width = sum(TERMS[term].width(sizes) for term in self.frame_terms())
        columns: List[int] = []
        for term in self.terms:
            if term != HISTORY:
                columns.extend(range(slices[term].start, slices[term].stop))
                continue
            for past in self.frame_terms():
                for age in range(1, self.history_length + 1):
                    offset = age * frame_width
                    columns.extend(range(offset + slices[past].start, offset + slices[past].stop))
        return np.array(columns, dtype=np.intp)

    def element_names(self, joints: Tuple[str, ...], actions: Tuple[str, ...],
                      held: Tuple[str, ...] = ()) -> Tuple[str, ...]:  # fmt: skip
        """A name for every number, for the contract: ``history[t-1].dof_pos.left_knee_joint``."""
        sizes = Sizes(len(joints), len(actions), len(held))
        labels: List[str] = []
        for term in self.frame_terms():
            width = TERMS[term].width(sizes)
            named = {
                "actions": actions,
                "ref_upper_dof_pos": held,
                "dof_pos": joints,
                "dof_vel": joints,
                "joint_pos": joints,
                "joint_vel": joints,
            }.get(term, tuple(str(k) for k in range(width)))
            labels.extend(f"{term}.{label}" for label in named)
        past = [
            f"history[t-{age}].{label}"
            for age in range(1, self.history_length + 1)
            for label in labels
        ]
        everything = labels + past
        return tuple(everything[k] for k in self.gather(sizes))


# Terms of the ASAP layouts stand in alphabetical order: so did the original sort them.
_ASAP = ("actions", "base_ang_vel", "dof_pos", "dof_vel", HISTORY, "projected_gravity",
         "ref_motion_phase")  # fmt: skip
# The same without the past: a fifth of the inputs, for training on few cores.
_PROPRIOCEPTION = tuple(term for term in _ASAP if term != HISTORY)
_ASAP_LOCO = ("actions", "base_ang_vel", "command_ang_vel", "command_base_height",
              "command_lin_vel", "command_stand", "cos_phase", "dof_pos", "dof_vel", HISTORY,
              "projected_gravity", "ref_upper_dof_pos", "sin_phase")  # fmt: skip
_MIMIC = ("command", "motion_anchor_ori_b", "base_ang_vel_unscaled", "joint_pos", "joint_vel",
          "actions")  # fmt: skip
_MIMIC_STATE = ("command", "motion_anchor_pos_b", "motion_anchor_ori_b", "base_lin_vel",
                "base_ang_vel_unscaled", "joint_pos", "joint_vel", "actions")  # fmt: skip

LAYOUTS: Dict[str, ObservationLayout] = {
    layout.name: layout
    for layout in (
        ObservationLayout("asap", _ASAP, history_length=4, observes_all_joints=False),
        ObservationLayout("proprioception", _PROPRIOCEPTION, observes_all_joints=False),
        ObservationLayout(
            "asap-loco", _ASAP_LOCO, history_length=4, needs_command=True, gait_period_s=0.9
        ),
        ObservationLayout("beyondmimic", _MIMIC, needs_reference=True),
        ObservationLayout(
            "beyondmimic-state", _MIMIC_STATE, needs_reference=True, needs_base_pos=True
        ),
    )
}


def find_layout(name: str, sizes: Sizes, width: int) -> ObservationLayout:
    """The layout of that name whose length is ``width``.

    ``beyondmimic`` stands for two layouts, with and without state estimation; the width of the
    network's input decides.

    Raises:
        InputError: If there is no such name, or the width does not fit.
    """
    candidates = [layout for key, layout in LAYOUTS.items() if key in (name, f"{name}-state")]
    if not candidates:
        raise InputError(f"there is no observation layout '{name}'{suggestion(name, LAYOUTS)}")
    for layout in candidates:
        if layout.width(sizes) == width:
            return layout
    widths = ", ".join(f"{layout.name} {layout.width(sizes)}" for layout in candidates)
    raise InputError(
        f"the policy takes {width} numbers, layout '{name}' has {widths} for {sizes.joints} joints "
        f"and {sizes.actions} actions; is this the right layout and robot?"
    )


class ObservationBuilder:
    """Builds observations of N robots and remembers the past frames that a layout needs."""

    def __init__(self, layout: ObservationLayout, sizes: Sizes, num_robots: int = 1) -> None:
        """Make room for N robots; the past is zero until frames have been seen."""
        self.layout = layout
        self.sizes = sizes
        self._terms = [TERMS[name] for name in layout.frame_terms()]
        self.frame_width = sum(term.width(sizes) for term in self._terms)
        self._gather = layout.gather(sizes)
        # Present frame first, then the past, newest first: one row is one robot.
        frames = 1 + layout.history_length
        self.frames = np.zeros((num_robots, frames * self.frame_width), np.float32)
        """(N, frames * width): all that is remembered."""

    @property
    def width(self) -> int:
        """Length of the observation."""
        return len(self._gather)

    def reset(self, robot_ids: Optional[np.ndarray] = None) -> None:
        """Forget the past of these robots (all by default): it is zero, as in training."""
        self.frames[slice(None) if robot_ids is None else robot_ids] = 0.0

    def build(self, inputs: ObservationInputs) -> np.ndarray:
        """Observations (N, D) float32 of this step; the step then becomes the newest past frame.

        Args:
            inputs: What the terms read, N rows.

        Returns:
            A new array, clipped to +-100.
        """
        width = self.frame_width
        # The frame that was present becomes the newest past one; the oldest drops out.
        self.frames[:, width:] = self.frames[:, :-width].copy()
        start = 0
        for term in self._terms:
            block = term.read(inputs)
            stop = start + block.shape[-1]
            self.frames[:, start:stop] = block * term.scale
            start = stop
        assert start == width, f"terms gave {start} numbers, the layout has {width}"
        return np.clip(self.frames[:, self._gather], -OBSERVATION_LIMIT, OBSERVATION_LIMIT)
