"""Post-training: one test for each trap that the methods are known for."""

from __future__ import annotations

import dataclasses
import json
import threading

import numpy as np
import pytest
import torch

from asap.posttrain.actors import (
    SQUASHED_LIMIT,
    Bounded,
    Gaussian,
    InputNorm,
    SquashedGaussian,
    folded,
    mlp,
    require,
)
from asap.posttrain.collect import Intervention, acting_on_states, collect
from asap.posttrain.corridor import Corridor, CorridorConfig, Walker, is_free, progress
from asap.posttrain.episode import (
    DEMO,
    OPERATOR,
    POLICY,
    load_episodes,
    load_pairs,
    pair,
    save_episodes,
    save_pairs,
)
from asap.posttrain.grape import GrapeConfig, grape
from asap.posttrain.hil import HilConfig
from asap.posttrain.ire import IreConfig
from asap.posttrain.miniatures import Stuck, grape_miniature, hasty, plain, shown_by
from asap.posttrain.on_policy import PpoStage, improve
from asap.posttrain.operators import Masked, Recorded, Scripted
from asap.posttrain.regress import CloneConfig, Shown, clone, held
from asap.posttrain.rldg import RldgConfig, Specialist, rldg, successes
from asap.posttrain.rlpd import RlpdConfig, rlpd
from asap.posttrain.soft_q import SoftQ, SoftQConfig, TensorRows
from asap.posttrain.views import Buffer, Mix, Rows, discounted, rows_of
from asap_deploy.errors import InputError
from asap_deploy.npz import load_npz, save_npz

SMALL = SoftQConfig.cpu(hidden=(16, 16), batch=8, critics=3)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def walks(count=6, seed=0, **hand):
    rng, task = np.random.default_rng(seed), Corridor(count)
    return shown_by(Walker(rng, **{"pace": 0.7, "noise": 0.4} | hand), task, count, rng)


def bounded(**more):
    torch.manual_seed(0)
    return Bounded(SquashedGaussian(8, 2, (16, 16), **more), np.ones(2))


def row(**changes):
    usual = {"observation": np.zeros((1, 8)), "action": np.zeros((1, 2)), "reward": np.zeros(1),
             "next_observation": np.ones((1, 8)), "alive": np.ones(1), "to_go": np.zeros(1),
             "shown": np.zeros(1, bool), "state": np.zeros((1, 0)),
             "next_state": np.zeros((1, 0))}  # fmt: skip
    return Rows(**usual | changes)


def same(a, b):
    assert set(a.channels) == set(b.channels)
    for name in ("action_policy", "action_executed", "source", "operator_mask", "terminated"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in a.channels:
        np.testing.assert_array_equal(a.channels[name], b.channels[name])
    assert (a.success, a.seed, a.judge) == (b.success, b.seed, b.judge)


# Episodes


def test_episodes_come_back_from_a_file_as_they_were(tmp_path):
    episodes = walks(4)
    save_episodes(tmp_path / "e.npz", episodes)
    for one, other in zip(episodes, load_episodes(tmp_path / "e.npz"), strict=True):
        same(one, other)


def test_observations_in_a_file_are_refused_because_they_are_rebuilt(tmp_path):
    save_episodes(tmp_path / "e.npz", walks(2))
    arrays = load_npz(tmp_path / "e.npz")
    save_npz(tmp_path / "bad.npz", arrays | {"observation": np.zeros((3, 8))})
    with pytest.raises(InputError, match="observations are rebuilt from raw channels"):
        load_episodes(tmp_path / "bad.npz")


@pytest.mark.parametrize("what", ["steps", "facts", "source", "channel/pos"])
def test_a_damaged_file_of_episodes_gives_one_clear_line(tmp_path, what):
    save_episodes(tmp_path / "e.npz", walks(2))
    arrays = load_npz(tmp_path / "e.npz")
    arrays[what] = np.array("[") if what == "facts" else arrays[what][:-1]
    save_npz(tmp_path / "bad.npz", arrays)
    with pytest.raises(InputError) as error:
        load_episodes(tmp_path / "bad.npz")
    assert str(error.value).count("\n") <= 1


def test_rebuilt_observations_are_those_that_were_acted_on():
    task, seen = Corridor(3), []

    def act(observation):
        seen.append(observation)
        return np.zeros((3, 2))

    episodes = collect(task, act, 3, np.random.default_rng(0))
    for env, one in enumerate(episodes):
        live = np.stack([frame[env] for frame in seen])
        np.testing.assert_array_equal(task.observations(one)[:-1], live)


def test_an_episode_that_goes_on_after_its_end_is_refused():
    one = walks(1)[0]
    with pytest.raises(InputError, match="goes on after its end in step 0"):
        dataclasses.replace(one, terminated=np.ones(one.steps, bool))


def test_a_pair_needs_one_start(tmp_path):
    task, rng = Corridor(2), np.random.default_rng(0)
    act = acting_on_states(task, Walker(rng, noise=0.5).act)
    a, b = collect(task, act, 2, rng, seeds=[5, 5])
    other = collect(task, act, 1, rng, seeds=[6])[0]
    found = pair(a, b, (1.0, 2.0))
    assert found.winner == b.sha256
    assert found.loser == a.sha256
    with pytest.raises(InputError, match="'pos' differs at the start"):
        pair(a, other, (1.0, 2.0))
    save_pairs(tmp_path / "p.jsonl", [found])
    assert load_pairs(tmp_path / "p.jsonl") == [found]
    (tmp_path / "p.jsonl").write_text(json.dumps({"winner": 1}))
    with pytest.raises(InputError, match="not a file of pairs"):
        load_pairs(tmp_path / "p.jsonl")


# Views


def test_time_that_ran_out_is_no_end_and_success_is():
    lost = collect(Corridor(1, CorridorConfig(horizon=5)), lambda o: np.zeros((1, 2)), 1,
                   np.random.default_rng(0))  # fmt: skip
    rows, _ = rows_of([*lost, *walks(1)], Corridor(1), bounded(), gamma=0.9)
    assert rows.alive[4] == 1.0  # truncated: the value goes on
    assert rows.alive[-1] == 0.0  # terminated
    assert rows.alive[:-1].all()


def test_what_is_learned_from_is_what_was_executed():
    task = Corridor(1, CorridorConfig(horizon=5))

    class Pushes:
        def begin(self, env_ids):
            pass

        def watch(self, channels, wanted):
            return Intervention(np.full_like(wanted, 0.5), np.array([[True, False]]))

    one = collect(task, lambda o: np.full((1, 2), 3.0), 1, np.random.default_rng(0),
                  operator=Pushes())[0]  # fmt: skip
    np.testing.assert_array_equal(one.action_policy[0], [3.0, 3.0])
    np.testing.assert_array_equal(one.action_executed[0], [0.5, 1.0])  # taken over, clipped
    np.testing.assert_array_equal(one.operator_mask[0], [True, False])
    assert (one.source == OPERATOR).all()
    rows, _ = rows_of([one], task, bounded(), gamma=0.9)
    np.testing.assert_allclose(rows.action[0], [0.5, SQUASHED_LIMIT])
    assert rows.shown.all()


def test_actions_outside_the_box_are_clipped_counted_and_have_a_finite_likelihood():
    actor = Bounded(SquashedGaussian(8, 2, (16,)), np.array([0.5, 0.5]))
    inner, outside = actor.encode(np.zeros((2, 8)), np.array([[1.0, 0.1], [0.2, 0.5]]))
    assert outside == 0.25  # one number of four
    likelihood = actor.head.log_prob(torch.zeros(2, 8), torch.as_tensor(inner))
    assert torch.isfinite(likelihood).all()


def test_shares_of_a_minibatch_are_exact():
    few, many = Buffer(), Buffer()
    few.add(row(reward=np.ones(1)))
    for _ in range(50):
        many.add(row())
    mix = Mix({"online": (many, 0.5), "prior": (few, 0.5)})
    for seed in range(5):
        assert mix.sample(np.random.default_rng(seed), 8).reward.sum() == 4.0
    with pytest.raises(InputError, match="add up to 1"):
        Mix({"online": (many, 0.5), "prior": (few, 0.4)})
    with pytest.raises(InputError, match="leaves no row"):
        Mix({"online": (many, 0.9), "prior": (few, 0.1)}).sample(np.random.default_rng(0), 4)
    with pytest.raises(InputError, match="empty"):
        Mix({"online": (Buffer(), 1.0)}).sample(np.random.default_rng(0), 4)


def test_a_reader_in_another_thread_never_meets_half_a_row():
    buffer, torn = Buffer(64), []

    def add():
        for number in range(400):
            buffer.add(row(reward=np.array([number]), to_go=np.array([number])))

    buffer.add(row())
    thread = threading.Thread(target=add)
    thread.start()
    rng = np.random.default_rng(0)
    while thread.is_alive():
        some = buffer.sample(rng, 16)
        torn.append((some.reward != some.to_go).any())
    thread.join()
    assert len(buffer) == 64
    assert not any(torn)


def test_sums_to_go_by_hand():
    # 0 + 0.5 * (1 + 0.5 * 2) = 1
    np.testing.assert_allclose(discounted(np.array([0.0, 1.0, 2.0]), 0.5), [1.0, 2.0, 2.0])


# Critics


def test_a_target_is_the_reward_alone_where_the_episode_terminated():
    config = dataclasses.replace(SMALL, temperature=1.0, entropy_backup=True)
    engine = SoftQ(bounded().head, 8, 2, config, seed=0)
    over = TensorRows.of(row(alive=np.zeros(1)))
    assert engine.target(over, [0, 1]).tolist() == [0.0]


def test_entropy_raises_a_target():
    """y = r + gamma (min Q - alpha log pi): of a policy that is spread, -log pi is above 0."""
    head = bounded(log_std=0.5).head
    rows = TensorRows.of(row())

    def target(**changes):
        config = dataclasses.replace(SMALL, temperature=0.5, **changes)
        engine = SoftQ(head, 8, 2, config, seed=0)
        torch.manual_seed(1)
        value = engine.target(rows, [0, 1])
        torch.manual_seed(1)
        log_prob = head.sample(rows.next_observation)[1]
        return float(value), float(log_prob.detach())

    (with_, log_prob), (without, _) = target(entropy_backup=True), target(entropy_backup=False)
    assert with_ - without == pytest.approx(-0.97 * 0.5 * log_prob, rel=1e-4)


def test_a_subset_of_critics_is_as_those_of_the_whole():
    engine = SoftQ(bounded().head, 8, 2, SMALL, seed=0)
    seen, action = torch.randn(5, 8), torch.rand(5, 2)
    nothing = torch.zeros(5, 0)
    everyone = engine.critics(seen, nothing, action)
    torch.testing.assert_close(engine.critics(seen, nothing, action, [2, 0]), everyone[[2, 0]])


def test_defaults_are_those_of_the_papers():
    paper = SoftQConfig()
    assert (paper.critics, paper.subset, paper.critic_steps, paper.batch) == (10, 2, 20, 256)
    assert (paper.target_entropy, paper.temperature, paper.layer_norm) == (-0.5, 1.0, True)
    light = HilConfig.paper().learn.q
    assert (light.critics, light.critic_steps, light.temperature) == (2, 2, 0.01)
    assert not light.entropy_backup
    assert RlpdConfig.paper().prior_share == 0.5


def test_the_likelihood_of_a_squashed_action_is_that_of_its_density():
    """Numerically: the density integrates to 1."""
    head = SquashedGaussian(1, 1, ())
    grid = torch.linspace(-0.9999, 0.9999, 20001)[:, None]
    density = torch.exp(head.log_prob(torch.zeros(len(grid), 1), grid))
    whole = torch.trapezoid(density.detach(), grid[:, 0])
    assert float(whole) == pytest.approx(1.0, abs=1e-3)


def test_rlpd_without_data_says_what_to_do():
    with pytest.raises(InputError, match="without any it is SAC"):
        rlpd(Corridor(1), bounded(), [], RlpdConfig(), seed=0, judge=Corridor(1))


def test_rlpd_runs_and_repeats_itself():
    config = RlpdConfig(steps=180, random_steps=90, judge_every=90, judge_episodes=2, q=SMALL)
    found = [rlpd(Corridor(1), bounded(), walks(2), config, seed=3, judge=Corridor(2))
             for _ in range(2)]  # fmt: skip
    assert found[0].curve == found[1].curve
    same(found[0].episodes[-1], found[1].episodes[-1])


# Policies


def test_a_missing_capability_is_named_with_what_to_do():
    with pytest.raises(InputError, match="needs a policy with log_prob.*rldg"):
        require(frozenset({"rsample"}), "log_prob", "grape")


def test_normalisation_goes_into_the_first_layer():
    rows = np.random.default_rng(0).normal(3.0, 2.0, (50, 8))
    head = SquashedGaussian(8, 2, (16,), normal=InputNorm(rows))
    layers, seen = folded(head.net), torch.as_tensor(rows[:5], dtype=torch.float32)
    (first, bias), (last, last_bias) = layers
    hidden = torch.nn.functional.elu(seen @ torch.as_tensor(first).T + torch.as_tensor(bias))
    torch.testing.assert_close(hidden @ torch.as_tensor(last).T + torch.as_tensor(last_bias),
                               head.net(seen), atol=1e-4, rtol=1e-4)  # fmt: skip


def test_a_trunk_that_is_held_stays_to_the_byte_and_the_head_moves():
    actor = plain(0, (16, 16, 16))
    before = [weight.detach().numpy().tobytes() for weight in actor.net.parameters()]
    stage = dataclasses.replace(PpoStage(), iterations=3, warmup=1)
    improve(Corridor(4, CorridorConfig(horizon=20)), actor, stage, seed=0,
            hold=lambda one: one.trunk())  # fmt: skip
    after = [weight.detach().numpy().tobytes() for weight in actor.net.parameters()]
    trunk = len(actor.trunk())
    assert trunk == 4  # two layers, weight and bias
    assert after[:trunk] == before[:trunk]
    assert all(a != b for a, b in zip(after[trunk:], before[trunk:], strict=True))
    assert all(weight.requires_grad for weight in actor.net.parameters())


def test_weight_decay_and_momentum_leave_held_weights_alone():
    actor = plain(0, (16, 16, 16))
    steps = torch.optim.AdamW(actor.net.parameters(), lr=0.1, weight_decay=0.5)
    actor.net(torch.ones(1, 8)).sum().backward()
    steps.step()  # momentum is there
    before = [weight.detach().clone() for weight in actor.trunk()]
    with held(actor.trunk()):
        steps.zero_grad()
        actor.net(torch.ones(1, 8)).sum().backward()
        steps.step()
    for weight, old in zip(actor.trunk(), before, strict=True):
        assert torch.equal(weight, old)


def test_a_policy_of_one_layer_has_no_trunk():
    with pytest.raises(InputError, match="no trunk to hold"):
        Gaussian(mlp([8, 2]), 2).trunk()


def test_ire_presets_hold_the_trunk_in_the_first_stage_alone():
    assert not IreConfig().hold_both
    assert not IreConfig().replay


# Pairs


def test_the_published_loss_destroys_a_gaussian_and_is_stopped():
    actor = hasty(0)
    before = [weight.detach().clone() for weight in actor.net.parameters()]
    config = GrapeConfig(anchor=0.0, starts=8, tries=4)

    def contacts(episode):
        return [float(episode.reward_terms["contact"].sum())]

    found = grape(Corridor(32), actor, contacts, config, seed=0)
    assert found.aborted
    assert found.rounds[-1].chosen_log_ratio < -2.0
    assert found.rounds[-1].accuracy > 0.8  # which is why accuracy says nothing
    for weight, old in zip(actor.net.parameters(), before, strict=True):
        assert torch.equal(weight, old)  # undone


def test_change_the_cost_change_the_behaviour():
    """All of the miniature: two seconds."""
    found = grape_miniature(0)
    assert all(found.effects.values()), found.arms


# Specialists


def test_equal_numbers_are_of_successes_not_of_transitions():
    task = Corridor(8)
    slow, fast = (Specialist(acting_on_states(task, Walker(np.random.default_rng(0), pace=p).act),
                             task) for p in (0.6, 1.0))  # fmt: skip
    config, rng = RldgConfig(successes=5), np.random.default_rng(0)
    counts = [sum(one.steps for one in successes(who, config, rng)) for who in (slow, fast)]
    assert [len(successes(who, config, rng)) for who in (slow, fast)] == [5, 5]
    assert counts[1] < counts[0]


def test_a_specialist_that_fails_is_named():
    task = Corridor(4, CorridorConfig(horizon=10))
    idle = Specialist(lambda o: np.zeros((4, 2)), task)
    with pytest.raises(InputError, match="succeeded in 0 of 20 episodes, 2 are wanted"):
        rldg(plain(0), [idle], RldgConfig(successes=2), seed=0)


def test_a_student_does_what_it_was_shown():
    episodes, task = walks(10, noise=0.2), Corridor(10)
    student = plain(0)
    clone(student, Shown.of(episodes, task), CloneConfig(steps=600), seed=0)
    found = collect(task, student.best, 10, np.random.default_rng(1))
    assert np.mean([one.success for one in found]) >= 0.9


# Operators


def test_nobody_takes_over_legs_of_a_real_robot():
    names = ("left_knee_joint", "waist_yaw_joint")
    idle = Recorded(walks(1))
    with pytest.raises(InputError, match=r"never takes over legs.*left_knee_joint"):
        Masked(idle, names, ("knee", "waist"), hardware=True)
    Masked(idle, names, ("waist",), hardware=True)
    Masked(idle, names, ("knee",), hardware=False)
    with pytest.raises(InputError, match="no action has 'elbow'"):
        Masked(idle, names, ("elbow",), hardware=True)


def test_an_operator_is_brief_and_lets_go():
    operator = Scripted(lambda s: np.array([True]), lambda s: np.ones((1, 2)), hold=3, pause=2)
    operator.begin(np.arange(1))
    on = [bool(operator.watch({}, np.zeros((1, 2))).mask[0, 0]) for _ in range(12)]
    assert on == [False, False, True, True, True, False, False, True, True, True, False, False]


def test_recorded_interventions_are_repeated():
    task, rng = Corridor(1), np.random.default_rng(0)
    stuck = Stuck()
    operator = Scripted(stuck, Walker(rng, pace=0.7).act, begin=stuck.begin)
    one = collect(task, lambda o: np.zeros((1, 2)), 1, rng, operator=operator)[0]
    assert one.operator_mask.any(axis=1).sum() == 18  # three times six steps, then it glides
    again = collect(task, lambda o: np.zeros((1, 2)), 1, rng, operator=Recorded([one]),
                    seeds=[one.seed])[0]  # fmt: skip
    np.testing.assert_allclose(again.action_executed, one.action_executed)
    assert again.success == one.success


# The corridor


def test_random_pushes_never_see_the_goal():
    rng = np.random.default_rng(0)
    found = collect(Corridor(50), lambda o: rng.uniform(-1, 1, (50, 2)), 200, rng)
    assert max(progress(one.channels["pos"]).max() for one in found) < 5.0
    assert all(one.source[0] == POLICY for one in found)
    assert all(is_free(one.channels["pos"]).all() for one in found)


def test_somebody_who_knows_the_way_gets_there():
    found = walks(20)
    assert all(one.success for one in found)
    assert all((one.source == DEMO).all() for one in found)
