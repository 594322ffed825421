"""Tiny robots that tests of the simulation write to disk: a stool and a bolted arm."""

from __future__ import annotations

from pathlib import Path

from asap.robot import Robot

_STOOL = """
<mujoco>
  <worldbody>
    <body name="seat" pos="0 0 0.4">
      <freejoint/>
      <inertial mass="5" pos="0 0 0" diaginertia="0.05 0.06 0.07"/>
      <geom name="seat_skin" type="sphere" size="0.1" contype="0" conaffinity="0"/>
      <body name="left_foot" pos="0 0.15 -0.3">
        <inertial mass="1" pos="0 0 0" diaginertia="0.01 0.01 0.01"/>
        <joint name="left_hip" axis="0 1 0" range="-1 1"/>
        <geom name="left_skin" type="sphere" size="0.03" contype="0" conaffinity="0"/>
        <geom name="left_sole" type="box" size="0.15 0.06 0.02"/>
      </body>
      <body name="right_foot" pos="0 -0.15 -0.3">
        <inertial mass="1" pos="0 0 0" diaginertia="0.01 0.01 0.01"/>
        <joint name="right_hip" axis="0 1 0" range="-1 1"/>
        <geom name="right_sole" type="box" size="0.15 0.06 0.02"/>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
_STOOL_TOML = """
mjcf = "robot.xml"
feet = ["left_foot", "right_foot"]
[joints]
"*_hip" = { stiffness = 200, damping = 10, torque_limit = 50, armature = 0.01 }
"""
# The axes are vertical, so gravity does nothing.
_ARM = """
<mujoco>
  <worldbody>
    <body name="post">
      <geom type="sphere" size="0.1" mass="1" contype="0" conaffinity="0"/>
      <body name="upper" pos="0 0 1">
        <joint name="shoulder" axis="0 0 1" range="-3 3"/>
        <geom type="capsule" size="0.02" fromto="0 0 0 0.3 0 0" mass="1"/>
        <body name="lower" pos="0.3 0 0.1">
          <joint name="elbow" axis="0 0 1" range="-3 3"/>
          <geom type="capsule" size="0.02" fromto="0 0 0 0.3 0 0" mass="0.5"/>
        </body>
      </body>
    </body>
  </worldbody>
</mujoco>
"""
_ARM_TOML = """
mjcf = "robot.xml"
control_dt = 0.005
[joints]
"*" = { stiffness = 30, damping = 2, torque_limit = 4, armature = 0.01 }
"""


def stool(folder: Path) -> Robot:
    """Free base, 7 kg, two wide feet: stands on its own."""
    return _load(folder, _STOOL, _STOOL_TOML)


def arm(folder: Path) -> Robot:
    """Bolted down, two joints, one physics step per control step."""
    return _load(folder, _ARM, _ARM_TOML)


def _load(folder: Path, mjcf: str, toml: str) -> Robot:
    (folder / "robot.xml").write_text(mjcf)
    (folder / "robot.toml").write_text(toml)
    return Robot.load(str(folder))
