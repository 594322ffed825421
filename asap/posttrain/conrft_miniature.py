"""ConRFT on the corridor: four demonstrations, then 1500 steps of the robot; four minutes.

    looks = run(seed=0)
    looks["conrft"][0].success, looks["conrft"][-1].length, looks["demos"][0].length

Arms: ``conrft`` as shipped; ``sft``, the equal budget without its ingredients: the head is cloned
only, critics begin online, values are not scaled and the policy's own steps are cloned too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from asap.posttrain.actors import Bounded
from asap.posttrain.collect import acting_on_states, collect
from asap.posttrain.conrft import ConrftConfig, conrft
from asap.posttrain.consistency import ConsistencyHead
from asap.posttrain.corridor import Corridor, CorridorConfig, Walker
from asap.posttrain.episode import DEMO, Episode
from asap.posttrain.looks import Look
from asap_deploy.errors import InputError

TASK = CorridorConfig(success_reward=10.0, step_reward=-0.05, horizon=90)
ARMS = ("conrft", "sft", "paper_form")
DEMOS = "demos"


def run(
    seed: int, *, arms: Sequence[str] = ARMS[:2], online_steps: int = 1500,
    looked: Callable[[str, Look], None] = lambda arm, look: None,
) -> dict[str, list[Look]]:  # fmt: skip
    """Try arms with the same demonstrations.

    Args:
        seed: Of everything random.
        arms: Of ``ARMS``; ``paper_form`` is ``conrft`` with raw values and all steps cloned.
        online_steps: Of the robot.
        looked: Told every look of every arm.

    Returns:
        Looks by arm, the first of each before the robot's first step; under ``demos`` one look
        with the mean steps of the demonstrations.

    Raises:
        InputError: If there is no such arm.
    """
    shown = demonstrations(seed)
    found = {DEMOS: [Look(0, 1.0, float(np.mean([one.steps for one in shown])))]}
    for arm in arms:
        if arm not in ARMS:
            raise InputError(f"there is no arm '{arm}'; there are {', '.join(ARMS)}")
        torch.manual_seed(seed)
        task = Corridor(1, TASK)
        head = ConsistencyHead(task.observation_width, len(task.action_names), (64, 64))
        result = conrft(
            task, Bounded(head, np.ones(2)), shown, config(arm, online_steps), seed=seed,
            judge=Corridor(20, TASK), looked=lambda one, arm=arm: looked(arm, one),  # type: ignore[misc]
        )  # fmt: skip
        found[arm] = [result.offline, *result.online]
    return found


def demonstrations(seed: int, count: int = 4) -> list[Episode]:
    """Walks that reach the goal, at a slow pace and with an unsteady hand."""
    rng = np.random.default_rng(seed)
    task, walker = Corridor(count, TASK), Walker(rng, pace=0.65, noise=0.2)
    found: list[Episode] = []
    while len(found) < count:
        some = collect(task, acting_on_states(task, walker.act), count, rng, source=DEMO)
        found += [one for one in some if one.success]
    return found[:count]


def config(arm: str, online_steps: int) -> ConrftConfig:
    """Of one arm."""
    shipped = ConrftConfig.cpu()
    online = dataclasses.replace(
        shipped.online, steps=online_steps, judge_every=max(1, online_steps // 5)
    )
    if arm == "conrft":
        return dataclasses.replace(shipped, online=online)
    raw = dataclasses.replace(online.q, normalise_value=False, clone_rows="all")
    return dataclasses.replace(
        shipped, offline_critic=arm != "sft", offline_value=0.1, clone=0.5, clone_floor=0.5,
        online=dataclasses.replace(online, q=raw),
    )  # fmt: skip
