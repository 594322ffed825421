"""Stop requests, kills, full disks and numbers that are not finite: no run is ever lost."""

from __future__ import annotations

import gc
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asap.cli import main
from asap.curves import METRICS, read_rows
from asap.imitate import ImitateConfig
from asap.inputs import OpenedMotion, open_motion
from asap.ppo import PpoConfig
from asap.robot import Robot
from asap.train import POLICY, Trainer
from asap.training_run import CHECKPOINT, TrainConfig
from asap_deploy.errors import InputError

PPO = PpoConfig(horizon=4, minibatches=1, epochs=1, torch_threads=1)
ALONE = ImitateConfig(iterations=0)
CONFIG = TrainConfig(num_envs=8, threads=1, episodes=2, ppo=PPO, save_every=1, imitate=ALONE)
WORDS = [
    *("pretrain", "--motion", "wave", "--train.num-envs", "8", "--train.threads", "1"),
    *("--train.episodes", "2", "--train.ppo.horizon", "4", "--train.ppo.minibatches", "1"),
    *("--train.ppo.epochs", "1", "--train.ppo.torch-threads", "1"),
    *("--train.imitate.iterations", "0"),
]
"""The command that trains with ``CONFIG``, but for where, and how often it saves."""

BEFORE = "; the one before is whole: make room and use --resume"


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("g1")


@pytest.fixture(scope="module")
def clip(robot: Robot) -> OpenedMotion:
    return open_motion(Path("wave"), robot, ground=True)


def _trained(trainer: Trainer, iterations: int) -> Trainer:
    """The trainer after so many more iterations, saved."""
    last = trainer.ppo.iteration + iterations
    trainer.run(stopped=lambda: trainer.ppo.iteration >= last)
    return trainer


@contextmanager
def _process(run_dir: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process of its own; it does not outlive the test."""
    command = [sys.executable, "-m", "asap.cli", *WORDS, "--out", str(run_dir), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _fork(work: Callable[[], object]) -> int:
    """A copy of this process that does some work and dies; it starts sooner than a new one."""
    child = os.fork()
    if child == 0:
        try:
            gc.freeze()  # what only looks like garbage may wait for threads that it left behind
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            work()
        finally:
            os._exit(1)
    return child


def _killed_by(child: int) -> int:
    """The signal that ended it."""
    return os.WTERMSIG(os.waitpid(child, 0)[1])


def _wait_for_row(run_dir: Path, iteration: int, alive: Callable[[], bool]) -> None:
    """Until this iteration is in the curves."""
    deadline = time.monotonic() + 60.0
    while max((row["iteration"] for row in read_rows(run_dir / METRICS)), default=0) < iteration:
        assert alive() and time.monotonic() < deadline, "the run does not go on"
        time.sleep(0.02)


def _saved_iteration(run_dir: Path) -> int:
    return torch.load(run_dir / CHECKPOINT, weights_only=True)["ppo"]["iteration"]


def _iterations(run_dir: Path) -> list[int]:
    return [row["iteration"] for row in read_rows(run_dir / METRICS) if "ppo/kl" in row]


def test_ctrl_c_and_sigterm_save_and_resume_continues(tmp_path: Path) -> None:
    saved = 0
    for name, words in ((signal.SIGINT, ()), (signal.SIGTERM, ("--resume",))):
        # Never saved but on request.
        with _process(tmp_path, "--train.save-every", "1000000", *words) as process:
            _wait_for_row(tmp_path, saved + 2, lambda: process.poll() is None)
            process.send_signal(name)
            printed, errors = process.communicate(timeout=60)
            assert process.returncode == 130
        assert _saved_iteration(tmp_path) >= saved + 2
        saved = _saved_iteration(tmp_path)
        assert f"stopped after {saved * 32} steps" in printed
        assert "Traceback" not in errors
        assert _iterations(tmp_path) == list(range(1, saved + 1))


def test_kill_9_between_checkpoints_loses_what_came_after_the_last_alone(
    robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    trainer = _trained(Trainer(robot, clip, CONFIG, tmp_path), 2)
    before = (tmp_path / CHECKPOINT).read_bytes()
    trainer.config = replace(CONFIG, save_every=1_000_000)
    child = _fork(trainer.run)
    _wait_for_row(tmp_path, 5, lambda: os.waitpid(child, os.WNOHANG)[0] == 0)
    os.kill(child, signal.SIGKILL)
    assert _killed_by(child) == signal.SIGKILL
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert _iterations(tmp_path)[:5] == [1, 2, 3, 4, 5]
    resumed = Trainer(robot, clip, CONFIG, tmp_path, resume=True)
    assert _iterations(tmp_path) == [1, 2]
    _trained(resumed, 1)
    assert _iterations(tmp_path) == [1, 2, 3]


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    trainer = _trained(Trainer(robot, clip, CONFIG, tmp_path), 1)
    before, rng = (tmp_path / CHECKPOINT).read_bytes(), random.Random(0)
    half = len(before) // 2

    def save_until_half() -> None:
        # The kernel ends a process at the byte where a file becomes too long, as kill -9 would.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))
        trainer.save()

    def save_for_ever() -> None:
        while True:
            trainer.save()

    assert _killed_by(_fork(save_until_half)) == signal.SIGXFSZ
    left_over = list(tmp_path.glob(f".{CHECKPOINT}.*"))
    assert [path.stat().st_size for path in left_over] == [half]
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    for _ in range(8):
        child = _fork(save_for_ever)
        time.sleep(rng.uniform(0.03, 0.1))
        os.kill(child, signal.SIGKILL)
        assert _killed_by(child) == signal.SIGKILL
        assert _saved_iteration(tmp_path) == 1
    resumed = Trainer(robot, clip, CONFIG, tmp_path, resume=True)
    assert not list(tmp_path.glob(f".{CHECKPOINT}.*"))
    _trained(resumed, 1)
    assert _saved_iteration(tmp_path) == 2


@contextmanager
def _short_files(size: int) -> Iterator[None]:
    """No file may become longer: the system refuses to write, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_the_one_before_stays(
    robot: Robot, clip: OpenedMotion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _trained(Trainer(robot, clip, CONFIG, tmp_path), 1)
    before = (tmp_path / CHECKPOINT).read_bytes()
    words = [*WORDS, "--out", str(tmp_path), "--resume", "--train.save-every", "2"]
    with _short_files(len(before) // 2):
        assert main(words) == 2
    file = tmp_path / CHECKPOINT
    error = capsys.readouterr().err.splitlines()
    assert error == [f"asap: cannot write: [Errno 27] File too large (file: {file}){BEFORE}"]
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert not list(tmp_path.glob(f".{CHECKPOINT}.*"))
    _trained(Trainer(robot, clip, CONFIG, tmp_path, resume=True), 1)
    assert _iterations(tmp_path) == [1, 2]


def test_a_disk_that_is_full_for_good_is_one_line_and_the_checkpoint_stays(tmp_path: Path) -> None:
    # A file system of 8 MB of our own, seen by one process alone: two checkpoints do not fit.
    own = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec"]
    mount = f"mount -t tmpfs -o size=8m tmpfs {tmp_path}"
    if not shutil.which("unshare") or subprocess.run([*own, mount], capture_output=True).returncode:
        pytest.skip("no file system can be made here: a really full one is NOT tried")
    train = [sys.executable, "-m", "asap.cli", *WORDS, "--train.save-every", "1", "--quiet"]
    kept = tmp_path.parent / f"{tmp_path.name}-kept"
    script = (
        f'{mount}; s=0; "$@" --out {tmp_path}/run || s=$?; cp -r {tmp_path}/run {kept}; exit $s'
    )
    done = subprocess.run([*own, script, "sh", *train], capture_output=True, text=True, timeout=60)
    file = tmp_path / "run" / CHECKPOINT
    line = f"asap: cannot write: [Errno 28] No space left on device (file: {file}){BEFORE}\n"
    assert (done.returncode, done.stderr) == (2, line)
    assert _saved_iteration(kept) == 1


def test_nan_in_one_robot_s_state_is_contained_and_counted(
    robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    trainer = _trained(Trainer(robot, clip, CONFIG, tmp_path), 1)
    for field in ("qpos", "qvel"):
        trainer.env.sim.batch.bind(field)[3, 10] = float("nan")
        _trained(trainer, 1)
    rows = read_rows(tmp_path / METRICS)
    # One robot in one of the four steps of an iteration.
    assert [row["episode/blown_up"] for row in rows] == [0.0, 0.25, 0.25]
    assert not any(value is None for row in rows for value in row.values())
    assert all(torch.isfinite(value).all() for value in trainer.ppo.policy.state_dict().values())
    assert _saved_iteration(tmp_path) == 3


@pytest.mark.parametrize("broken", ["policy_net", "value_net", "log_std"])
def test_weights_that_are_not_finite_stop_the_run_and_are_never_saved(
    broken: str, robot: Robot, clip: OpenedMotion, tmp_path: Path
) -> None:
    trainer = _trained(Trainer(robot, clip, CONFIG, tmp_path), 1)
    before = (tmp_path / CHECKPOINT).read_bytes()
    weights = dict(trainer.ppo.policy.named_parameters())
    name = next(name for name in weights if broken in name)
    with torch.no_grad():
        weights[name].view(-1)[0] = float("nan")
    with pytest.raises(InputError, match="training diverged in iteration 2: the network"):
        _trained(trainer, 1)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert _trained(Trainer(robot, clip, CONFIG, tmp_path, resume=True), 1).ppo.iteration == 2


def test_training_that_diverges_is_one_line_that_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = ["--train.ppo.learning-rate", "1e30", "--train.ppo.learning-rate-bounds", "1", "1e30"]
    assert main([*WORDS, "--out", str(tmp_path), *wild]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(r"diverged in iteration \d: the network is not finite;", error)
    assert "begin anew with smaller --train.ppo.learning-rate" in error
    assert not (tmp_path / CHECKPOINT).exists()
    assert not (tmp_path / POLICY).exists()
