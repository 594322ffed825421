"""The first contact with a robot, a rung at a time: read only, damping, 20 % gains, full gains.

Before every rung a person is asked, and every answer is kept. A rung that faults, or a "no", ends
the climb.

    rungs = climb([Path("stand.onnx")], limits, spec, input, print)
    all(rung.passed for rung in rungs)
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Callable, List, NamedTuple, Sequence

from asap_deploy.golden import load_policy
from asap_deploy.keys import RemoteKeys, ScriptedKeys
from asap_deploy.link import LinkSpec
from asap_deploy.loop import Session, run
from asap_deploy.safety import SafetyLimits
from asap_deploy.states import Player

STEPS = (
    ("read only", "The robot hangs, nobody is near, you hold the remote. Listen for 2 s?",
     "quit@2", 1.0),
    ("damping", "Its joints will resist your hand. Damp for 4 s?", "arm@1.5 quit@5.5", 1.0),
    ("20 % gains", "It will move into the first pose, weakly. Go on?",
     "arm@1.5 stand@2 quit@ready quit@damp", 0.2),
    ("full gains", "It will move into the first pose with full strength. Go on?",
     "arm@1.5 stand@2 quit@ready quit@damp", 1.0),
)  # fmt: skip
"""Name, question, orders, part of the gains. Who wrote in the rung before counts as another
commander for a second: nobody arms before it is over."""


class Rung(NamedTuple):
    """What was asked, answered and seen."""

    name: str
    question: str
    answer: str
    passed: bool
    problems: List[str]
    time_s: float
    """Of the calendar"""


def climb(policies: Sequence[Path], limits: SafetyLimits, link: LinkSpec,
          ask: Callable[[str], str], say: Callable[[str], None]) -> List[Rung]:  # fmt: skip
    """Up to the first rung that fails.

    Args:
        policies: The first one's first frame is the pose.
        limits: Of the robot.
        link: To the robot.
        ask: Given a question, returns an answer; "y" goes on.
        say: Tells the operator.
    """
    policy, rungs = load_policy(policies[0]), []
    for name, question, orders, gain in STEPS:
        answer = ask(f"{name}: {question} [y/N] ").strip().lower()
        passed, problems = False, ["not wanted"]
        if answer in ("y", "yes"):
            player = Player(policy, policies[0].stem, limits.joint_names, gain=gain)
            report = run(Session([player], limits, link, [ScriptedKeys(orders), RemoteKeys()],
                                 seconds=60.0, say=say))  # fmt: skip
            passed, problems = report.status == 0, list(report.facts["problems"])
        rungs.append(Rung(name, question, answer, passed, problems, time.time()))
        say(f"{name}: {'passed' if passed else 'ended, ' + '; '.join(problems)}")
        if not passed:
            break
    return rungs
