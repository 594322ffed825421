"""Random choreographies, for policies that shall know more than one motion.

motion = random_motion(3, Robot.load("g1"))
"""

from __future__ import annotations

import numpy as np

from asap.choreography import Script
from asap.make_motions import perform
from asap.robot import Robot
from asap_deploy.motion import Motion

DURATION_S = 5.0


def random_motion(seed: int, robot: Robot) -> Motion:
    """One choreography: a stance, steps, a lifted foot or a jump, and arms that do something."""
    rng = np.random.default_rng(seed)
    script = Script(robot, duration_s=DURATION_S)
    kinds = (_dip, _steps, _steps, _lift, _lift, _jump)  # one leg is what is hard
    kinds[int(rng.integers(len(kinds)))](script, rng)
    _arms(script, rng)
    return perform(script, source=f"made by asap.random_motions ({seed}); Apache-2.0")


def _dip(script: Script, rng: np.random.Generator) -> None:
    """Bend knees and hips, twice, leaning and shifting the weight."""
    drawn = np.sort(rng.uniform(0.5, 4.4, 4)) + 0.06 * np.arange(4)
    times = 0.5 * (np.linspace(0.5, 4.4, 4) + drawn)  # neither close together nor regular
    depth, lean = rng.uniform(-0.22, -0.02, 2), rng.uniform(-0.1, 0.5, 2)
    share = rng.uniform(-0.6, 0.6, 2)
    for channel, values in ((script.height, depth), (script.lean, lean), (script.weight, share)):
        channel((0.3, 0.0), (times[1], values[0]), (times[2], values[1]), (4.8, 0.0))


def _steps(script: Script, rng: np.random.Generator) -> None:
    """Up to six steps, anywhere."""
    foot, now = ("left", "right") if rng.random() < 0.5 else ("right", "left"), 0.9
    script.height((0.2, 0.0), (0.8, -0.03), (4.3, -0.03), (4.9, 0.0))
    ahead, turn = rng.uniform(-0.15, 0.3), rng.uniform(-0.3, 0.3)
    for k in range(int(rng.integers(2, 7))):
        length = rng.uniform(0.4, 0.55)
        if now + length > 4.2:
            break
        side = rng.uniform(0.0, 0.1) * (1.0 if foot[k % 2] == "left" else -1.0)
        script.step(
            foot[k % 2], now, now + length, forward=ahead * rng.uniform(0.6, 1.2),
            left=side if k % 4 < 2 else -side, turn=turn, lift=rng.uniform(0.04, 0.09),
        )  # fmt: skip
        now += length + rng.uniform(0.08, 0.25)


def _lift(script: Script, rng: np.random.Generator) -> None:
    """One foot up, somewhere, and down again."""
    foot = "left" if rng.random() < 0.5 else "right"
    side = 1.0 if foot == "left" else -1.0
    points = [
        (time_s, rng.uniform(-0.25, 0.35), side * rng.uniform(0.0, 0.15), rng.uniform(0.08, 0.25))
        for time_s in np.linspace(1.8, 3.0, int(rng.integers(1, 4))).tolist()
    ]
    down = (points[-1][0] + 0.7, 0.0, 0.0, 0.0)
    script.swing(foot, (1.2, 0.0, 0.0, 0.0), *points, down)
    script.lean((1.0, 0.0), (2.0, rng.uniform(-0.15, 0.3)), (3.8, 0.0))


def _jump(script: Script, rng: np.random.Generator) -> None:
    """A jump, anywhere."""
    script.jump(1.6, rng.uniform(0.2, 0.3), forward=rng.uniform(-0.1, 0.25),
                left=rng.uniform(-0.1, 0.1), turn=rng.uniform(-1.5, 1.5))  # fmt: skip
    script.lean((0.8, 0.0), (1.25, rng.uniform(0.1, 0.3)), (1.75, 0.1), (2.3, 0.2), (3.0, 0.0))


def _arms(script: Script, rng: np.random.Generator) -> None:
    """Shoulders, elbows and waist go to three poses each."""
    swing: dict[str, tuple[float, float]] = {
        "shoulder_pitch": (-1.2, 0.6), "shoulder_roll": (0.0, 0.9), "shoulder_yaw": (-0.6, 0.6),
        "elbow": (-0.6, 0.6),
    }  # fmt: skip
    quiet = rng.uniform(0.2, 1.0)
    for side, sign in (("left", 1.0), ("right", -1.0)):
        for part, (low, high) in swing.items():
            mirror = sign if part in ("shoulder_roll", "shoulder_yaw") else 1.0
            poses = quiet * mirror * rng.uniform(low, high, 3)
            keys = zip((1.2, 2.4, 3.6), poses, strict=True)
            script.joint(f"{side}_{part}_joint", (0.2, 0.0), *keys, (4.8, 0.0))
    for name, size in (("waist_yaw", 0.5), ("waist_roll", 0.15), ("waist_pitch", 0.2)):
        keys = zip((1.5, 3.2), quiet * rng.uniform(-size, size, 2), strict=True)
        script.joint(f"{name}_joint", (0.3, 0.0), *keys, (4.7, 0.0))
