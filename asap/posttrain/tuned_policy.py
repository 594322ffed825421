"""A tuned policy as a file: the contract of its start, new numbers, and where they come from.

data = write_tuned(net.model(), start, robot, None,
                   provenance={"recipe": "rlpd", "noise": "sigma 0.2 of an action"})
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import onnx

from asap import onnx_file
from asap.export import write_policy
from asap.posttrain.graph_net import ends
from asap.robot import Robot
from asap_deploy.contract import PolicyContract
from asap_deploy.errors import InputError
from asap_deploy.motion import Motion
from asap_deploy.policy import Policy

RECIPE, NOISE = "recipe", "noise"
"""Provenance that every tuned file has: what was done, and how actions were explored."""
RECIPES, START = "recipes", "tuned_from_sha256"
"""All that was done, in its order; hash of the file before the last of it."""

_ACTION_MEANS = ("action_joint_names", "action_scale", "offset_mode", "stiffness", "damping",
                 "default_joint_pos")  # fmt: skip
"""Of contracts: where these agree, an action means the same."""


def action_differs(ours: PolicyContract, theirs: PolicyContract) -> str:
    """Name of the first fact by which the same action means different things, or nothing."""
    return next((name for name in _ACTION_MEANS if getattr(ours, name) != getattr(theirs, name)),
                "")  # fmt: skip


def write_tuned(
    model: onnx.ModelProto,
    policy: Policy,
    robot: Robot,
    clip_motion: Motion | None,
    *,
    provenance: Mapping[str, str],
) -> bytes:
    """The policy file.

    Joint order, gains, scales, layout and clip are those of the start, to the bit: new numbers
    mean nothing without them.

    Args:
        model: From observation to action alone: ``GraphNet.model`` or ``with_residual``.
        policy: The start.
        robot: That it is for.
        clip_motion: The clip, where the start's file has no table of it; else it is not needed.
        provenance: ``recipe``, ``noise`` and whatever else should be known.

    Returns:
        Bytes that ``asap_deploy.golden.load_policy`` accepts.

    Raises:
        InputError: If the graph does not fit the contract of the start.
    """
    old = policy.contract
    missing = [key for key in (RECIPE, NOISE) if key not in provenance]
    assert not missing, f"provenance of a tuned policy says {RECIPE} and {NOISE}, not {missing}"
    found, wanted = ends(model), (old.input_name, old.output_name)
    if found != wanted:
        raise InputError(f"the tuned graph leads from {found[0]} to {found[1]}, that of its start "
                         f"from {wanted[0]} to {wanted[1]}")  # fmt: skip
    before = old.provenance.get(RECIPES)
    done = f"{before} > {provenance[RECIPE]}" if before else provenance[RECIPE]
    contract = dataclasses.replace(
        old, provenance={**old.provenance, **provenance, RECIPES: done, START: policy.sha256}
    )
    if policy.clip is None:
        return write_policy(model, contract, robot, clip_motion if old.clip is not None else None)
    # The table of the start as it is: one made anew of a motion would differ in the last digits.
    return write_policy(onnx_file.with_clip(model, policy.clip), contract, robot, None)
