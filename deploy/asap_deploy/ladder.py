"""The first contact with a robot, a rung at a time: read only, damping, 20 % gains, full gains.

Before every rung a person is asked, and every answer is kept. A rung that faults, or a "no", ends
the climb.

    rungs = climb([Path("stand.onnx")], limits, spec, input, print, lambda: [RemoteKeys()])
    all(rung.passed for rung in rungs)
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional, Sequence

from asap_deploy.golden import load_policy
from asap_deploy.keys import Keys, OnlyStop, ScriptedKeys, Stoppable
from asap_deploy.link import LinkSpec
from asap_deploy.loop import Session, closing, run
from asap_deploy.safety import SafetyLimits
from asap_deploy.states import Player

STEPS = (
    ("read only", "The robot hangs, nobody is near, you hold the remote. Listen for 2 s?",
     "quit@2", 1.0),
    ("damping", "Its joints will resist your hand. Damp for 4 s?", "arm@1.5 quit@5.5", 1.0),
    ("20 % gains", "It will move into the first pose, weakly. Go on?",
     "arm@1.5 stand@damp quit@ready quit@damp", 0.2),
    ("full gains", "It will move into the first pose with full strength. Go on?",
     "arm@1.5 stand@damp quit@ready quit@damp", 1.0),
)  # fmt: skip
"""Name, question, orders, part of the gains. Who wrote in the rung before counts as another
commander for a second: nobody arms before it is over."""

READ_ONLY = STEPS[0][0]
"""The rung whose supervisor could not write if it wanted to."""


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
          ask: Callable[[str], str], say: Callable[[str], None],
          operators: Callable[[], Sequence[Keys]], out: Optional[Path] = None,
          ) -> List[Rung]:  # fmt: skip
    """Up to the first rung that fails.

    Args:
        policies: The first one's first frame is the pose.
        limits: Of the robot.
        link: To the robot.
        ask: Given a question, returns an answer; "y" goes on.
        say: Tells the operator.
        operators: Makes what the operator can stop a rung with; nothing else is heeded from it.
        out: Recording; each rung has its own beside it.
    """
    policy = load_policy(policies[0])
    rungs: List[Rung] = []
    for name, question, orders, gain in STEPS:
        answer = ask(f"{name}: {question} [y/N] ").strip().lower()
        passed, problems = False, ["not wanted"]
        if answer in ("y", "yes"):
            player = Player(policy, policies[0].stem, limits.joint_names, gain=gain)
            spec = dataclasses.replace(link, read_only=name == READ_ONLY)
            stops = [OnlyStop(keys) for keys in operators()]
            path = out and out.with_name(f"{out.stem}-rung{len(rungs) + 1}{out.suffix}")
            script = ScriptedKeys(orders)
            keys = Stoppable(script, stops)
            with closing([keys]):
                report = run(Session([player], limits, spec, [keys], seconds=60.0, say=say,
                                     out=path))  # fmt: skip
            problems = list(report.facts["problems"])
            if script.left and not problems:
                problems.append(f"it never came to '{script.left[0]}'")
            if keys.stopped:
                problems.append("stopped by the operator")
            passed = report.status == 0 and not problems
        rungs.append(Rung(name, question, answer, passed, problems, time.time()))
        say(f"{name}: {'passed' if passed else 'ended, ' + '; '.join(problems)}")
        if not passed:
            break
    return rungs
