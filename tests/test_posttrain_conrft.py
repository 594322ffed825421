"""ConRFT: the consistency head, the balance of cloning and values, both stages."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from asap.posttrain.actors import LOG_PROB, Bounded, require
from asap.posttrain.conrft import ConrftConfig, conrft, offline
from asap.posttrain.conrft_miniature import DEMOS, TASK, config, demonstrations, run
from asap.posttrain.consistency import ConsistencyHead, Rebuild, clipped
from asap.posttrain.corridor import Corridor
from asap.posttrain.looks import Look
from asap.posttrain.soft_q import SoftQ, SoftQConfig, TensorRows
from asap.posttrain.views import discounted, rows_of
from asap_deploy.errors import InputError

torch.set_num_threads(1)


def _head(seed: int = 0, *, spread: float = 3.0) -> ConsistencyHead:
    """Of 5 numbers to 2, with actions large enough that some are clipped."""
    torch.manual_seed(seed)
    head = ConsistencyHead(5, 2, (16, 16))
    with torch.no_grad():
        for weight in head.parameters():
            weight.add_(0.3 * spread * torch.randn_like(weight))
    return head


def _rows(count: int = 32, seed: int = 0) -> TensorRows:
    """Random ones, of which every second is shown."""
    random = torch.Generator().manual_seed(seed)
    seen = torch.randn(count, 5, generator=random)
    action = 2.0 * torch.rand(count, 2, generator=random) - 1.0
    reward = torch.randn(count, generator=random)
    shown = (torch.arange(count) % 2 == 0).float()
    nothing = torch.zeros(count, 0)
    return TensorRows(seen, action, reward, seen.flip(0), torch.ones(count), reward, shown, nothing,
                      nothing)  # fmt: skip


def test_the_layers_of_a_head_give_its_mean_and_take_nothing_but_observations() -> None:
    head, seen = _head(), torch.randn(64, 5)
    layers = head.as_layers()
    value = seen
    for depth, (weight, bias) in enumerate(layers):
        value = value @ weight.T + bias
        if depth < len(layers) - 1:
            value = head.activation()(value)
    value = (head.gain * value).clamp(-1.0, 1.0)
    assert layers[0][0].shape == (16, 5)
    assert (value.abs() == 1.0).any()
    assert (value.abs() < 1.0).any()
    torch.testing.assert_close(value, head.mean(seen), atol=1e-4, rtol=1e-4)


def test_the_mean_has_no_noise_and_a_sample_has() -> None:
    head, seen = _head(spread=0.3), torch.randn(8, 5)
    assert torch.equal(head.mean(seen), head.mean(seen))
    one, log_prob = head.sample(seen)
    assert log_prob is None
    assert not torch.equal(one, head.sample(seen)[0])
    assert one.abs().max() <= 1.0
    with pytest.raises(InputError, match="'grape' needs a policy with log_prob"):
        require(head.caps, LOG_PROB, "grape")


def test_at_the_lowest_level_a_head_gives_back_what_it_is_given() -> None:
    head, noisy = _head(), torch.rand(4, 2)
    sigma = head.levels[:1].expand(4, 1)
    torch.testing.assert_close(head.denoised(torch.randn(4, 5), noisy, sigma), noisy)
    assert len(head.levels) == 40
    assert float(head.levels[0]) == pytest.approx(0.002, rel=1e-3)
    assert float(head.levels[-1]) == pytest.approx(80.0, rel=1e-3)


def test_a_clipped_action_can_return_but_not_go_further_out() -> None:
    action = torch.tensor([2.0, 2.0, -2.0, -2.0, 0.5], requires_grad=True)
    slope = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])
    (clipped(action) * slope).sum().backward()
    # A step goes against the slope: 2 with slope 1 and -2 with slope -1 come back.
    assert action.grad is not None
    assert action.grad.tolist() == [1.0, 0.0, 0.0, -1.0, 1.0]


def _fitted(head: ConsistencyHead, steps: int, *, by_seen: bool) -> list[float]:
    """Losses of cloning +-0.6, which is what is seen says or a coin."""
    torch.manual_seed(0)
    adam, losses = torch.optim.Adam(head.parameters(), lr=2e-3, foreach=True), []
    for _ in range(steps):
        action = torch.where(torch.rand(128, 1) < 0.5, -0.6, 0.6)
        loss = head.imitation(action if by_seen else torch.zeros(128, 1), action).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    return losses


def test_cloning_brings_the_loss_down_and_the_action_near() -> None:
    torch.manual_seed(0)
    head = ConsistencyHead(1, 1, (32, 32))
    losses = _fitted(head, 300, by_seen=True)
    assert np.mean(losses[-50:]) < 0.5 * np.mean(losses[:20])
    with torch.no_grad():
        found = head.mean(torch.tensor([[-0.6], [0.6]])).flatten()
    assert found.tolist() == pytest.approx([-0.6, 0.6], abs=0.1)


@pytest.mark.parametrize(("rebuild", "both"), [("data", False), ("neighbour", True)])
def test_one_step_finds_both_modes_only_where_neighbours_are_rebuilt(
    rebuild: Rebuild, both: bool
) -> None:
    torch.manual_seed(0)
    head = ConsistencyHead(1, 1, (32, 32), rebuild=rebuild)
    _fitted(head, 400, by_seen=False)
    with torch.no_grad():
        found = head.sample(torch.zeros(2000, 1))[0]
    share = min(float((found < -0.4).float().mean()), float((found > 0.4).float().mean()))
    # Pure noise says nothing of the action: the least squared error is the middle, which nobody
    # showed.
    assert share > 0.1 if both else found.abs().max() < 0.3


def test_there_is_one_gamma_for_targets_and_for_what_demonstrations_reached() -> None:
    names = {one.name for one in dataclasses.fields(ConrftConfig)}
    assert not [name for name in names if "gamma" in name or "discount" in name]
    shown, task = demonstrations(0, count=1), Corridor(1, TASK)
    actor = Bounded(ConsistencyHead(8, 2, (8,)), np.ones(2))
    q = dataclasses.replace(ConrftConfig().online.q, gamma=0.5)
    rows, _ = rows_of(shown, task, actor, gamma=q.gamma)
    reward = np.full(shown[0].steps, -0.05)
    reward[-1] += 10.0
    np.testing.assert_allclose(rows.to_go, discounted(reward, 0.5))
    # Critics that already say what is reached have targets that say the same: Q = r + gamma Q'.
    np.testing.assert_allclose(rows.to_go[:-1], rows.reward[:-1] + q.gamma * rows.to_go[1:])


def _actor_slope(rows: TensorRows, scale: float = 1.0, **changes: object) -> torch.Tensor:
    """Gradient of the actor's loss; critics' values are multiplied by a scale."""
    small = {"critic_steps": 1, "temperature": None, "clone_weight": 1.0, **changes}
    engine = SoftQ(_head(spread=0.3), 5, 2, SoftQConfig.cpu(**small), seed=0)
    with torch.no_grad():
        engine.critics.weights[-1].mul_(scale)
        engine.critics.biases[-1].mul_(scale)
    torch.manual_seed(1)
    engine._actor_step(rows)
    assert isinstance(engine.head, ConsistencyHead)
    return torch.cat([one.grad.flatten() for one in engine.head.parameters()
                      if one.grad is not None])  # fmt: skip


def test_scaling_rewards_leaves_the_balance_of_cloning_and_values_where_it_was() -> None:
    rows = _rows()
    once, tenfold = _actor_slope(rows), _actor_slope(rows, 10.0)
    torch.testing.assert_close(once, tenfold, rtol=1e-3, atol=1e-5)
    raw = [_actor_slope(rows, scale, normalise_value=False) for scale in (1.0, 10.0)]
    assert (raw[0] - raw[1]).norm() > 0.5 * raw[0].norm()


def test_cloning_reaches_shown_rows_alone() -> None:
    rows = _rows()
    others = rows._replace(action=torch.where(rows.shown[:, None] > 0, rows.action, -rows.action))
    shown = rows._replace(action=torch.where(rows.shown[:, None] > 0, -rows.action, rows.action))
    assert torch.equal(_actor_slope(rows), _actor_slope(others))
    assert not torch.allclose(_actor_slope(rows), _actor_slope(shown))
    everything = [_actor_slope(one, clone_rows="all") for one in (rows, others)]
    assert not torch.allclose(everything[0], everything[1])


def test_cloning_weakens_linearly_down_to_its_floor() -> None:
    half = ConrftConfig(clone=1.0, clone_floor=0.2, fade=0.5)
    assert [half.beta(share) for share in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [1.0, 0.6, 0.2, 0.2]
    )
    paper = ConrftConfig.paper()
    assert (paper.beta(0.0), paper.beta(1.0), paper.value) == (0.5, 0.5, 1.0)
    assert (paper.offline_clone, paper.offline_value) == (1.0, 0.1)
    assert paper.online.q.clone_rows == "all"
    assert not paper.online.q.normalise_value
    assert ConrftConfig.cpu() == ConrftConfig()


def _short(**changes: object) -> ConrftConfig:
    online = ConrftConfig().online
    q = dataclasses.replace(online.q, critics=2, hidden=(8,), batch=16)
    online = dataclasses.replace(online, steps=60, judge_every=30, judge_episodes=2, q=q)
    small = {"offline_steps": 5, "offline_batch": 16, "online": online, **changes}
    return ConrftConfig(**small)  # type: ignore[arg-type]


def test_both_stages_run_the_floor_only_in_the_first_and_a_seed_is_a_result() -> None:
    shown, found = demonstrations(0, count=2), []
    for _ in range(2):
        torch.manual_seed(0)
        actor = Bounded(ConsistencyHead(8, 2, (8,)), np.ones(2))
        told: list[Look] = []
        result = conrft(Corridor(1, TASK), actor, shown, _short(), seed=3, judge=Corridor(2, TASK),
                        looked=told.append)  # fmt: skip
        assert told == [result.offline, *result.online]
        found.append([one.sha256 for one in result.episodes])
    assert found[0] == found[1]
    actor = Bounded(ConsistencyHead(8, 2, (8,)), np.ones(2))
    engine, clipped_share = offline(Corridor(1, TASK), actor, shown, _short(), seed=0)
    assert engine.config.floor_weight == 0.0
    assert clipped_share == 0.0


def test_what_conrft_cannot_begin_with_is_refused() -> None:
    task, actor = Corridor(1, TASK), Bounded(ConsistencyHead(8, 2, (8,)), np.ones(2))
    with pytest.raises(InputError, match="conrft needs demonstrations; got none"):
        conrft(task, actor, [], _short(), seed=0, judge=task)
    mine = [dataclasses.replace(one, source=np.zeros(one.steps, dtype=int))
            for one in demonstrations(0, count=1)]  # fmt: skip
    with pytest.raises(InputError, match="of a demonstrator or operator alone"):
        conrft(task, actor, mine, _short(), seed=0, judge=task)
    online = ConrftConfig().online
    with pytest.raises(InputError, match="random_steps must be 0"):
        ConrftConfig(online=dataclasses.replace(online, random_steps=10))
    with pytest.raises(InputError, match="no entropy"):
        ConrftConfig(online=dataclasses.replace(online, q=SoftQConfig.cpu()))
    with pytest.raises(InputError, match="clone_floor 0 to clone"):
        ConrftConfig(clone=0.1)
    with pytest.raises(InputError, match="at least one hidden layer"):
        ConsistencyHead(8, 2, ())


def test_the_miniature_has_arms_that_differ_in_what_is_compared() -> None:
    ours, control = config("conrft", 100), config("sft", 100)
    assert ours.online.q.normalise_value
    assert not control.online.q.normalise_value
    assert not control.offline_critic
    assert ours.offline_steps == control.offline_steps
    assert ours.online.steps == control.online.steps == 100
    assert set(run(0, arms=())) == {DEMOS}
    with pytest.raises(InputError, match="no arm 'bc'; there are conrft, sft"):
        run(0, arms=("bc",))
