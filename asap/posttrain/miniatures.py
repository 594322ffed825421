"""Six experiments on a point mass: does each recipe do what it promises, and its control not?

    found = MINIATURES["grape"](seed=0)
    found.arms["safe"]["contacts"], found.effects

Minutes in all, no simulator. They show that the code does what the papers say, not that the papers
hold on a humanoid; every effect has a control at equal budget that lacks the new ingredient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from asap.posttrain import conrft_miniature
from asap.posttrain.actors import Bounded, Gaussian, SquashedGaussian, mlp
from asap.posttrain.collect import Act, acting_on_states, collect
from asap.posttrain.corridor import Corridor, CorridorConfig, Walker, progress
from asap.posttrain.episode import DEMO, Episode
from asap.posttrain.grape import GrapeConfig, grape
from asap.posttrain.hil import HilConfig, hg_dagger, hil
from asap.posttrain.ire import IreConfig, ire
from asap.posttrain.looks import Look
from asap.posttrain.on_policy import PpoStage, improve
from asap.posttrain.operators import Scripted
from asap.posttrain.regress import CloneConfig, Shown, clone
from asap.posttrain.rldg import RldgConfig, Specialist, rldg
from asap.posttrain.rlpd import RlpdConfig, rlpd

_WIDTH, _ACTIONS = Corridor.observation_width, len(Corridor.action_names)


class Miniature(NamedTuple):
    """What one experiment gave with one seed."""

    arms: dict[str, dict[str, Any]]
    """Figures by arm"""
    effects: dict[str, bool]
    """What must hold, by name"""


def rlpd_miniature(seed: int, *, steps: int = 2500) -> Miniature:
    """Walks of which none goes from start to goal make a sparse task solvable; SAC fails."""
    prior = _halves(np.random.default_rng(100 + seed))
    arms = {}
    for arm, share in (("rlpd", 0.5), ("sac", 0.0)):
        config = RlpdConfig(steps=steps, prior_share=share)
        found = rlpd(Corridor(1), _bounded(seed), prior, config, seed=seed, judge=Corridor(10))
        arms[arm] = _curve(found.curve)
    return Miniature(arms, {
        "rlpd solves it": arms["rlpd"]["success"] >= 0.9,
        "sac does not": arms["sac"]["success"] <= 0.1,
    })  # fmt: skip


def hil_miniature(seed: int, *, steps: int = 1500) -> Miniature:
    """An operator is needed less and less, and the policy ends faster than the operator's clone."""
    rng, task = np.random.default_rng(100 + seed), Corridor(1)
    demos = shown_by(Walker(rng, pace=0.7, noise=0.4), Corridor(3), 3, rng)
    arms: dict[str, dict[str, Any]] = {}
    for arm in ("hil", "demos alone", "none"):
        share = 0.0 if arm == "none" else 0.5
        config = HilConfig(learn=RlpdConfig(random_steps=0, steps=steps, prior_share=share))
        found = hil(task, _bounded(seed), [] if arm == "none" else demos,
                    _operator(seed) if arm == "hil" else None, config, seed=seed,
                    judge=Corridor(10))  # fmt: skip
        arms[arm] = _curve(found.tuned.curve) | {"rates": found.rates}
    look, rates = hg_dagger(task, plain(seed), demos, _operator(seed), steps=steps,
                            judge=Corridor(10), seed=seed)  # fmt: skip
    arms["hg-dagger"] = _curve([look]) | {"rates": rates}
    return Miniature(arms, {
        "hil succeeds": arms["hil"]["success"] >= 0.9,
        "without demos and operator nothing": arms["none"]["success"] <= 0.1,
        "the operator is let go": arms["hil"]["rates"][-1] <= 0.05,
        "faster than the operator cloned": arms["hil"]["steps"] <= 0.9 * look.length,
    })  # fmt: skip


_SEEN, _UNSEEN = ((0.0, 2.0), (0.6, 2.3), (1.2, 1.7)), ((0.3, 1.8), (0.9, 2.0), (0.0, 2.3))


def rldg_miniature(seed: int, *, successes: int = 10) -> Miniature:
    """As many episodes of specialists teach more than those of a person."""
    rng = np.random.default_rng(seed)
    people, specialists = [], []
    for place, goal in enumerate(_SEEN):
        task = Corridor(64, CorridorConfig(goals=(goal,)))
        person = acting_on_states(task, Walker(rng, pace=0.6, noise=0.5).act)
        actor = plain(seed + place)
        clone(actor, Shown.of(collect(task, person, 20, rng, source=DEMO), task),
              CloneConfig(steps=800), seed=seed)  # fmt: skip
        improve(task, actor, PpoStage(iterations=20), seed=seed + place)
        people.append(Specialist(person, task))
        specialists.append(Specialist(actor.act, task))
    arms = {}
    for arm, teachers, rounds in (("people", people, 0), ("rldg", specialists, 0),
                                  ("dagger", specialists, 2)):  # fmt: skip
        student = plain(seed)
        config = RldgConfig(successes=successes, rounds=rounds)
        taught = rldg(student, teachers, config, seed=seed)
        seen, unseen = (_over_goals(student.best, goals) for goals in (_SEEN, _UNSEEN))
        arms[arm] = {"success": seen[0], "steps": seen[1], "unseen": unseen[0],
                     "transitions": taught.steps}  # fmt: skip
    return Miniature(arms, {
        "seen goals as well as from people": arms["rldg"]["success"] >= arms["people"]["success"],
        "faster": arms["rldg"]["steps"] <= 0.7 * arms["people"]["steps"],
        "from fewer transitions": arms["rldg"]["transitions"] < arms["people"]["transitions"],
    })  # fmt: skip


_TURNS, _UNSEEN_TURNS = (0.9, -0.9, 1.2), (0.6, -0.6, 1.0)


def ire_miniature(seed: int) -> Miniature:
    """Actuators turned three ways, one after the other; experts go straight on."""
    rng, home = np.random.default_rng(seed), Corridor(50)
    experts = shown_by(Walker(rng, pace=0.8, noise=0.7), home, 60, rng)
    arms = {}
    configs = {"sft": None, "ppo with replay": IreConfig(replay=True), "ire": IreConfig(),
               "trunk held in both": IreConfig(hold_both=True)}  # fmt: skip
    for arm, config in configs.items():
        actor = plain(seed, (64, 64, 64))
        clone(actor, Shown.of(experts, home), CloneConfig(), seed=seed)
        if config is not None:
            tasks = [Corridor(64, CorridorConfig(turns=(turn,))) for turn in _TURNS]
            ire(actor, experts, home, tasks, config, seed=seed)
        new, unseen, old = (_over_turns(actor.best, t) for t in (_TURNS, _UNSEEN_TURNS, (0.0,)))
        arms[arm] = {"success": new, "unseen": unseen, "experts": old}
    return Miniature(arms, {
        "better at new tasks than fitting": arms["ire"]["success"] >= arms["sft"]["success"] + 0.1,
        "better than ppo with replay":
            arms["ire"]["success"] >= arms["ppo with replay"]["success"] + 0.1,
        "experts kept": arms["ire"]["experts"] >= arms["sft"]["experts"] - 0.05,
    })  # fmt: skip


def grape_miniature(seed: int) -> Miniature:
    """Change the cost, change the behaviour; the loss as published trips the guard."""
    arms: dict[str, dict[str, Any]] = {"start": _taste(hasty(seed).act)}
    for arm, cost, anchor in (("safe", _contacts, 3.0), ("fast", _length, 3.0),
                              ("as published", _contacts, 0.0)):  # fmt: skip
        actor = hasty(seed)
        found = grape(Corridor(200), actor, cost, GrapeConfig(anchor=anchor), seed=seed)
        last = found.rounds[-1]
        arms[arm] = _taste(actor.act) | {"aborted": found.aborted,
                                         "chosen_log_ratio": last.chosen_log_ratio}  # fmt: skip
    arms["chosen cloned"] = _taste(_cloned_choice(seed).act)
    start, safe, fast = (arms[name] for name in ("start", "safe", "fast"))
    return Miniature(arms, {
        "success does not fall": min(safe["success"], fast["success"]) >= start["success"],
        "safe touches half as much": safe["contacts"] <= 0.5 * start["contacts"],
        "safe touches less than fast": safe["contacts"] <= 0.5 * fast["contacts"],
        "fast is faster": fast["steps"] <= 0.9 * start["steps"],
        "the published loss is stopped": bool(arms["as published"]["aborted"]),
    })  # fmt: skip


def plain(seed: int, hidden: Sequence[int] = (64, 64)) -> Gaussian:
    """A policy that knows nothing."""
    torch.manual_seed(seed)
    return Gaussian(mlp([_WIDTH, *hidden, _ACTIONS]), _ACTIONS, -1.0)


def shown_by(walker: Walker, task: Corridor, count: int, rng: np.random.Generator) -> list[Episode]:
    """Demonstrations."""
    return collect(task, acting_on_states(task, walker.act), count, rng, source=DEMO)


def hasty(seed: int) -> Gaussian:
    """Cloned from few and unsteady walks: often there, not without bumping into walls."""
    rng, task = np.random.default_rng(seed), Corridor(20)
    demos = shown_by(Walker(rng, pace=0.6, noise=0.6), task, 8, rng)
    actor = plain(seed)
    with torch.no_grad():
        actor.log_std.fill_(-1.2)
    clone(actor, Shown.of(demos, task), CloneConfig(steps=400), seed=seed)
    return actor


class Stuck:
    """Robots that have not come farther for eight steps."""

    def __init__(self) -> None:
        """Nobody has been seen."""
        self._best, self._since = np.zeros(0), np.zeros(0, dtype=int)

    def begin(self, env_ids: np.ndarray) -> None:
        """These begin anew."""
        if len(self._best) <= env_ids.max():
            self._best = np.zeros(env_ids.max() + 1)
            self._since = np.zeros(env_ids.max() + 1, dtype=int)
        self._best[env_ids], self._since[env_ids] = -np.inf, 0

    def __call__(self, channels: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) bool."""
        along = progress(channels["pos"])
        farther = along > self._best + 0.02
        self._best = np.where(farther, along, self._best)
        self._since = np.where(farther, 0, self._since + 1)
        return self._since > 8


class _Beginning(Corridor):
    """Halfway: who begins here has never seen the start."""

    def start(self, env_ids: np.ndarray, seeds: np.ndarray) -> None:
        """In the middle of the right-hand side."""
        super().start(env_ids, seeds)
        self.pos[env_ids] += np.array([2.0, 1.0])


def _halves(rng: np.random.Generator) -> list[Episode]:
    """Walks that stop halfway, and walks that begin there."""
    config = CorridorConfig(horizon=60)
    first = shown_by(Walker(rng, pace=0.7, noise=0.4, until=3.2), Corridor(20, config), 20, rng)
    return first + shown_by(Walker(rng, pace=0.7, noise=0.4), _Beginning(20, config), 20, rng)


def _bounded(seed: int) -> Bounded:
    torch.manual_seed(seed)
    return Bounded(SquashedGaussian(_WIDTH, _ACTIONS, (64, 64)), np.ones(_ACTIONS))


def _operator(seed: int) -> Scripted:
    walker = Walker(np.random.default_rng(seed), pace=0.7, noise=0.3)
    stuck = Stuck()
    return Scripted(stuck, walker.act, begin=stuck.begin)


def _curve(looks: Sequence[Look]) -> dict[str, Any]:
    """The end of a curve, and all of it."""
    last = looks[-1]
    return {"success": last.success, "steps": last.length, "curve": [list(one) for one in looks]}


def _judged(act: Act, config: CorridorConfig, count: int = 50) -> tuple[float, float]:
    """Success and steps, always from the same starts."""
    found = collect(Corridor(count, config), act, count, np.random.default_rng(7))
    return (float(np.mean([bool(one.success) for one in found])),
            float(np.mean([one.steps for one in found])))  # fmt: skip


def _over_goals(act: Act, goals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    found = np.mean([_judged(act, CorridorConfig(goals=(goal,))) for goal in goals], axis=0)
    return float(found[0]), float(found[1])


def _over_turns(act: Act, turns: Sequence[float]) -> float:
    return float(np.mean([_judged(act, CorridorConfig(turns=(turn,)))[0] for turn in turns]))


def _contacts(episode: Episode) -> list[float]:
    return [0.5 * float(episode.reward_terms["contact"].sum())]


def _length(episode: Episode) -> list[float]:
    return [episode.steps / 30.0]


def _taste(act: Act) -> dict[str, Any]:
    found = collect(Corridor(200), act, 200, np.random.default_rng(5))
    return {
        "success": float(np.mean([bool(one.success) for one in found])),
        "steps": float(np.mean([one.steps for one in found])),
        "contacts": float(np.mean([one.reward_terms["contact"].sum() for one in found])),
    }


def _cloned_choice(seed: int) -> Gaussian:
    """The better of every start cloned, nothing pushed away: the control of pairs."""
    actor, task = hasty(seed), Corridor(200)
    rng = np.random.default_rng(seed)
    for round_ in range(3):
        starts = np.repeat(rng.integers(0, 2**31, 40), 5)
        found = collect(task, actor.act, 200, rng, seeds=starts.tolist())
        groups = [found[first : first + 5] for first in range(0, 200, 5)]
        best = [min(group, key=lambda one: (not one.success, sum(_contacts(one))))
                for group in groups]  # fmt: skip
        clone(actor, Shown.of(best, task), CloneConfig(steps=30), seed=seed + round_)
    return actor


def conrft_arms(seed: int) -> Miniature:
    """Cloning goes on while values take over: no fall, and faster than the demonstrations."""
    looks = conrft_miniature.run(seed)
    demos = looks.pop(conrft_miniature.DEMOS)[0].length
    arms = {arm: _curve(some) | {"offline": some[0].success} for arm, some in looks.items()}
    ours, sft = looks["conrft"], looks["sft"]
    return Miniature(arms | {"demos": {"success": 1.0, "steps": demos}}, {
        "offline as well as cloning": ours[0].success >= sft[0].success - 0.05,
        "no fall online": min(one.success for one in ours[1:]) >= 0.9,
        "faster than the demonstrations": ours[-1].length <= 0.85 * demos,
        "raw values and all rows fall": min(one.success for one in sft[1:]) <= 0.5,
    })  # fmt: skip


MINIATURES: dict[str, Callable[[int], Miniature]] = {
    "rlpd": rlpd_miniature,
    "hil": hil_miniature,
    "rldg": rldg_miniature,
    "ire": ire_miniature,
    "conrft": conrft_arms,
    "grape": grape_miniature,
}
"""By recipe."""
