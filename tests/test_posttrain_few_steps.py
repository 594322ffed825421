"""What lets a robot learn from few steps: rows of several, critics that warm up, the best look."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from asap.posttrain.corridor import Corridor, CorridorConfig
from asap.posttrain.grape import GrapeConfig, _pairs
from asap.posttrain.looks import Best, Look
from asap.posttrain.soft_q import SoftQ
from asap.posttrain.views import Buffer, rows_of
from asap_deploy.errors import InputError
from tests.test_posttrain import SMALL, bounded, walks


def test_rows_of_several_steps_sum_rewards_and_look_as_far_ahead():
    (one,) = walks(1)
    task, gamma = Corridor(1, CorridorConfig(step_reward=-0.1)), 0.9
    rows, _ = rows_of([one], task, bounded(), gamma=gamma, ahead=3)
    seen, reward = task.observations(one), task.reward(one.reward_terms)
    np.testing.assert_allclose(rows.next_observation[0], seen[3])
    assert rows.reward[0] == pytest.approx(reward[0] + gamma * reward[1] + gamma**2 * reward[2])
    assert rows.alive[0] == pytest.approx(gamma**2)  # the engine discounts once more
    # At the end of an episode that is over there is nothing to ask, however many steps are left.
    np.testing.assert_allclose(rows.alive[-3:], 0.0)
    assert rows.alive[-4] == pytest.approx(gamma**2)
    np.testing.assert_allclose(rows.reward[-2], reward[-2] + gamma * reward[-1])
    cut = dataclasses.replace(one, terminated=one.truncated, truncated=one.terminated)
    rows, _ = rows_of([cut], task, bounded(), gamma=gamma, ahead=3)
    np.testing.assert_allclose(rows.alive[-3:], [gamma**2, gamma, 1.0])  # nobody looked further


def test_the_actor_rests_while_critics_warm_up():
    engine = SoftQ(bounded().head, 8, 2, dataclasses.replace(SMALL, warmup=2), seed=0)
    known, rng = Buffer(), np.random.default_rng(0)
    rows, _ = rows_of(walks(2), Corridor(1), bounded(), gamma=SMALL.gamma)
    known.add(rows)
    before = [weight.detach().clone() for weight in engine.head.parameters()]
    for _ in range(2):
        assert "value" not in engine.update(known, rng)
    for weight, old in zip(engine.head.parameters(), before, strict=True):
        assert torch.equal(weight, old)
    assert "value" in engine.update(known, rng)
    assert not all(map(torch.equal, engine.head.parameters(), before))


def test_what_is_not_clearly_better_is_not_done():
    """Critics that know nothing lead a residual away; the weight of the action holds it near 0."""
    (known := Buffer()).add(rows_of(walks(2), Corridor(1), bounded(), gamma=SMALL.gamma)[0])
    seen, size = torch.randn(64, 8), {}
    for weight in (0.0, 1.0):
        head = bounded().head
        config = dataclasses.replace(SMALL, still_weight=weight, temperature=None,
                                     learning_rate=1e-2)  # fmt: skip
        engine, rng = SoftQ(head, 8, 2, config, seed=0), np.random.default_rng(0)
        for _ in range(40):
            engine.update(known, rng)
        size[weight] = float(head.mean(seen).detach().abs().mean())
    assert size[1.0] < 0.5 * size[0.0]


def test_the_best_look_is_gone_back_to():
    actor = bounded()
    best = Best(actor, [Look(0, 0.0, 1.0, 1.0)])
    weight = next(actor.head.parameters())
    for value, filled in ((2.0, 5.0), (1.5, 7.0)):
        with torch.no_grad():
            weight.fill_(filled)
        best.compare(Look(1, 0.0, 1.0, value))
    best.restore()
    assert (weight == 5.0).all()


def test_pairs_are_of_the_best_with_the_worst():
    scores = [3.0, 1.0, 2.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    one, two = (_pairs(scores, GrapeConfig(tries=4, pairs=count)) for count in (1, 2))
    assert one == [(0, 3)]  # those of the second start do not differ
    assert two == [(0, 3), (2, 1)]
    with pytest.raises(InputError, match="1 to 2, half of the tries"):
        GrapeConfig(tries=5, pairs=3)
