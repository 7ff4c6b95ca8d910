from __future__ import annotations

import pytest
import torch
from torch import Tensor

from marlcore.buffer import Buffer, minibatches
from marlcore.types import Rollout, Step, Targets

ALL = slice(0, 2)


def make_step(t: int, *, ended: bool = False, final_value: float = float("nan")) -> Step:
    return Step(
        inputs={"vector": torch.full((2, 2, 1, 3), float(t))},
        actions=torch.full((2, 2, 1, 1), float(t)),
        log_probs=torch.zeros(2, 2, 1),
        values=torch.full((2, 1), float(t)),
        rewards=torch.zeros(2),
        next_values=torch.full((2, 1), final_value),
        terminated=torch.tensor([False, False]),
        episode_ended=torch.tensor([ended, ended]),
        executed_length=torch.ones(2, 2, dtype=torch.long),
    )


def fill(steps: list[Step], bootstrap: float = 99.0) -> Rollout:
    buffer = Buffer(len(steps), 2)
    for step in steps:
        buffer.append(step, ALL)
    return buffer.rollout(bootstrap=torch.full((2, 1), bootstrap))


def test_the_successors_value_is_the_next_rows_and_at_the_end_the_bootstrap() -> None:
    rollout = fill([make_step(t) for t in range(3)])
    assert rollout.next_values[:, 0, 0].tolist() == [1.0, 2.0, 99.0]


def test_a_truncated_row_keeps_the_value_of_its_own_final_observation() -> None:
    rollout = fill([make_step(0), make_step(1, ended=True, final_value=7.0), make_step(2)])
    assert rollout.next_values[:, 0, 0].tolist() == [1.0, 7.0, 99.0]


def test_what_came_before_a_void_episode_is_cut_off_and_bootstraps_from_its_own_successor() -> None:
    buffer = Buffer(2, 2)
    buffer.append(make_step(0), ALL)
    buffer.cut_before(torch.tensor([True, False]), ALL)
    buffer.append(make_step(1), ALL)
    rollout = buffer.rollout(bootstrap=torch.zeros(2, 1))
    assert rollout.episode_ended.tolist() == [[True, False], [False, False]]
    assert rollout.next_values[0, 0, 0] == 1.0


def test_a_rollout_too_short_or_too_long_is_refused() -> None:
    buffer = Buffer(1, 2)
    with pytest.raises(AssertionError, match="0 of 1"):
        buffer.rollout(bootstrap=torch.zeros(2, 1))
    buffer.append(make_step(0), ALL)
    with pytest.raises(AssertionError, match="full"):
        buffer.append(make_step(1), ALL)


def make_batches(num_minibatches: int, seed: int = 0) -> list[Tensor]:
    rollout = fill([make_step(t) for t in range(6)])
    targets = Targets(torch.zeros(6, 2, 2), torch.zeros(6, 2, 1))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    parts = minibatches(rollout, targets, num_minibatches=num_minibatches, order=order)
    return [part.actions[:, 0, 0, 0] for part in parts]


def test_an_epoch_holds_every_row_once() -> None:
    rows = torch.cat(make_batches(4))
    assert sorted(rows.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert rows.tolist() != torch.cat(make_batches(4, seed=1)).tolist()


def test_rows_that_do_not_split_are_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="12 rows do not split into 5 minibatches"):
        make_batches(5)


def test_microbatches_cover_a_minibatch_in_order() -> None:
    rollout = fill([make_step(t) for t in range(6)])
    targets = Targets(torch.zeros(6, 2, 2), torch.zeros(6, 2, 1))
    (batch,) = minibatches(rollout, targets, num_minibatches=1, order=torch.randperm(12))
    parts = batch.split(5)
    assert [len(part.actions) for part in parts] == [5, 5, 2]
    assert torch.equal(torch.cat([part.actions for part in parts]), batch.actions)
