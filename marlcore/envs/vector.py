"""E environments that step together, in this process or in workers, with the same results.

A worker may raise, exit, be killed or hang: it is replaced, its environments start new episodes,
and the run goes on. Nothing outlives the parent: workers die with it, shared memory has no name.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from marlcore.config import EnvConfig
from marlcore.envs.batch import State, copied, join_states, split_states, vector_step, write_actions
from marlcore.envs.channel import LOAD, RENDER, RESET, SAVE, STEP, Arrays, Message
from marlcore.envs.group import Buffers, buffer_size, make_buffers
from marlcore.envs.local import LocalVectorEnv
from marlcore.envs.protocol import EnvSpec, Observation, VectorEnv, VectorStep
from marlcore.envs.workers import Worker, WorkerFailure

_log = logging.getLogger("marlcore.envs")


def make_vector_env(
    config: EnvConfig,
    *,
    num_envs: int,
    num_workers: int,
    seed: int,
    worker_timeout_s: float,
    num_groups: int = 1,
    first_index: int = 0,
    max_failures_in_a_row: int = 3,
    stagger_episodes: bool = False,
) -> VectorEnv:
    """Make E environments; call `reset` or `load_state_dict` next, `close` in the end.

    Args:
        config: Of every environment.
        num_envs: E.
        num_workers: Processes that share them, E at most; 0: this process.
        seed: Of the run.
        worker_timeout_s: Silence after which a worker counts as hung.
        num_groups: Groups that can step by themselves; no more than there are workers, or one.
        first_index: Index of the first environment in the run. Episodes are seeded by seed, index
            and episode number.
        max_failures_in_a_row: So many failures of a worker with no decision between end the run.
        stagger_episodes: Whether first episodes are cut short, each at another env step.

    Raises:
        ValueError: the configuration does not make an environment.
        RuntimeError: making one failed in a worker.
    """
    if num_workers == 0:
        return LocalVectorEnv(
            config,
            num_envs=num_envs,
            seed=seed,
            first_index=first_index,
            stagger_episodes=stagger_episodes,
        )
    return WorkerVectorEnv(
        config,
        num_envs=num_envs,
        num_workers=min(num_workers, num_envs),
        seed=seed,
        worker_timeout_s=worker_timeout_s,
        num_groups=num_groups,
        first_index=first_index,
        max_failures_in_a_row=max_failures_in_a_row,
        stagger_episodes=stagger_episodes,
    )


class WorkerVectorEnv:
    """A VectorEnv over worker processes. Arguments: see `make_vector_env`."""

    def __init__(
        self,
        config: EnvConfig,
        *,
        num_envs: int,
        num_workers: int,
        seed: int,
        worker_timeout_s: float,
        num_groups: int,
        first_index: int,
        max_failures_in_a_row: int,
        stagger_episodes: bool,
    ) -> None:
        self._workers: list[Worker] = []
        self._descriptor = -1
        self._num_envs = num_envs
        self._first_index = first_index
        self._max_failures_in_a_row = max_failures_in_a_row
        self._num_failures = 0
        # Rows whose episode was lost since the last decision: the next one is discarded.
        self._lost = np.zeros(num_envs, np.bool_)
        self._stepping: dict[int, list[Worker]] = {}
        """By group that has begun a decision, the workers that run it."""
        try:
            for start, stop in itertools.pairwise(_bounds(num_envs, num_workers)):
                self._workers.append(
                    Worker(
                        config,
                        seed=seed,
                        first_index=first_index + start,
                        rows=slice(start, stop),
                        timeout_s=worker_timeout_s,
                        stagger_episodes=stagger_episodes,
                    )
                )
            bounds = itertools.pairwise(_bounds(num_workers, min(num_groups, num_workers)))
            self._groups = [self._workers[first:last] for first, last in bounds]
            self._rows = tuple(slice(g[0].rows.start, g[-1].rows.stop) for g in self._groups)
            self._spec = self._specs()
            self._size = buffer_size(self._spec, num_envs)
            self._descriptor = _nameless_file(self._size)
            memory = memoryview(mmap.mmap(self._descriptor, self._size))
            self._buffers = make_buffers(self._spec, num_envs, memory)
            self._buffers.episode_number[:] = -1
            self._parts = [self._buffers.part(rows) for rows in self._rows]
            for worker in self._workers:
                worker.attach(self._descriptor, self._size, num_envs)
        except BaseException:
            self.close()
            raise

    @property
    def spec(self) -> EnvSpec:
        """Shapes with H, without E."""
        return self._spec

    @property
    def num_envs(self) -> int:
        """E."""
        return self._num_envs

    @property
    def groups(self) -> tuple[slice, ...]:
        """Rows of the workers of each group."""
        return self._rows

    @property
    def worker_ids(self) -> tuple[int, ...]:
        """Process ids, for diagnosis."""
        return tuple(worker.process_id for worker in self._workers)

    def reset(self) -> Observation:
        """Start a new episode everywhere."""
        self._everywhere(RESET, self._workers)
        self._lost[:] = False
        return copied(self._buffers.observations)

    def begin(self, group: int, actions: NDArray[np.generic]) -> None:
        """Have a group run one decision. actions: its rows of [E, N, K, D], unclipped."""
        write_actions(self._parts[group], self._spec, actions)
        self._send_step(group)

    def finish(self, group: int) -> VectorStep:
        """Wait until a group has run its decision; its rows."""
        return self._finish([group], self._rows[group], self._parts[group])

    def step(self, actions: NDArray[np.generic]) -> VectorStep:
        """Run one decision everywhere. actions: [E, N, K, D], unclipped."""
        write_actions(self._buffers, self._spec, actions)
        groups = range(len(self._groups))
        for group in groups:
            self._send_step(group)
        return self._finish(groups, slice(0, self._num_envs), self._buffers)

    def _send_step(self, group: int) -> None:
        """Have the workers of a group step, but those that have begun new episodes."""
        workers = [w for w in self._groups[group] if not self._lost[w.rows.start]]
        self._stepping[group] = workers
        for worker in workers:
            worker.send(Message(STEP))

    def _finish(self, groups: Sequence[int], rows: slice, buffers: Buffers) -> VectorStep:
        self._answers(STEP, [w for group in groups for w in self._stepping.pop(group)])
        discarded = self._lost[rows].copy()
        self._lost[rows] = False
        num_failures, self._num_failures = self._num_failures, 0
        return vector_step(
            buffers,
            discarded=discarded,
            first_index=self._first_index + rows.start,
            num_worker_failures=num_failures,
        )

    def render(self, env_index: int) -> NDArray[np.uint8]:
        """Return a picture of environment `env_index` of 0 .. E - 1."""
        (worker,) = (w for w in self._workers if w.rows.start <= env_index < w.rows.stop)
        return self._from(worker, RENDER, [env_index])[0]["picture"].astype(np.uint8)

    def state_dict(self) -> State:
        """Return all that is needed to go on from here."""
        states: list[State] = []
        for worker in self._workers:
            states += self._from(worker, SAVE, range(worker.rows.start, worker.rows.stop))
        return join_states(states)

    def load_state_dict(self, state: State) -> Observation:
        """Bring every environment back to that point."""
        states = split_states(state, self._num_envs)
        failures: list[WorkerFailure] = []
        for turn in range(max(worker.rows.stop - worker.rows.start for worker in self._workers)):
            busy = [w for w in self._workers if w.rows.start + turn < w.rows.stop]
            for worker in busy:
                own = states[int(worker.rows.start) + turn]
                worker.send(Message(LOAD, row=turn, arrays=own))
            for worker in busy:
                try:
                    worker.receive(is_load=True)
                except WorkerFailure as failure:
                    failures.append(failure)
            if failures:
                raise failures[0].as_error("could not restore an environment")
        self._lost[:] = False
        return copied(self._buffers.observations)

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.begin_close()
        for worker in self._workers:
            worker.finish_close()
        self._workers = []
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # At the interpreter's end modules may be half gone; the workers then die of EOF.
        with contextlib.suppress(Exception):
            self.close()

    def _everywhere(self, command: int, workers: list[Worker]) -> None:
        """Have the workers execute a command at the same time; replace those that fail."""
        for worker in workers:
            worker.send(Message(command))
        self._answers(command, workers)

    def _answers(self, command: int, workers: list[Worker]) -> None:
        """Wait for the answers to a command; replace the workers that fail."""
        failures: list[tuple[Worker, WorkerFailure]] = []
        for worker in workers:
            try:
                worker.receive()
            except WorkerFailure as failure:
                failures.append((worker, failure))
            else:
                worker.failures_in_a_row *= command != STEP
        for worker, failure in failures:
            self._replace(worker, failure)

    def _from(self, worker: Worker, command: int, rows: range | list[int]) -> list[Arrays]:
        """Ask one worker for something of each of its rows; if it fails, ask its successor."""
        while True:
            try:
                answers: list[Arrays] = []
                for row in rows:
                    worker.send(Message(command, row=row - worker.rows.start))
                    answers.append(worker.receive())
                return answers
            except WorkerFailure as failure:
                self._replace(worker, failure)

    def _replace(self, worker: Worker, failure: WorkerFailure) -> None:
        """Restart a worker and start new episodes in its environments; try that a few times."""
        first, last = (self._first_index + i for i in (worker.rows.start, worker.rows.stop - 1))
        name = f"the worker of environments {first} to {last}"
        while True:
            worker.failures_in_a_row += 1
            self._num_failures += 1
            if worker.failures_in_a_row >= self._max_failures_in_a_row:
                raise failure.as_error(f"{name} failed {worker.failures_in_a_row} times in a row")
            _log.warning("%s failed (%s): restarted, its episodes are discarded", name, failure)
            try:
                worker.restart()
                worker.receive_spec()
                worker.attach(self._descriptor, self._size, self._num_envs)
                worker.send(Message(RESET))
                worker.receive()
            except WorkerFailure as next_failure:
                failure = next_failure
            else:
                self._lost[worker.rows] = True
                return

    def _specs(self) -> EnvSpec:
        """Wait until all environments are made; they are alike."""
        try:
            return [worker.receive_spec() for worker in self._workers][-1]
        except WorkerFailure as failure:
            raise failure.as_error("could not make the environments") from None


def _bounds(total: int, num_parts: int) -> list[int]:
    """Where parts that are as equal as can be begin, and where the last one ends."""
    return [total * part // num_parts for part in range(num_parts + 1)]


def _nameless_file(size: int) -> int:
    """Open a file in memory that vanishes with its last user, however that one ends."""
    if sys.platform == "linux":
        # Not in /dev/shm, which containers keep small.
        descriptor = os.memfd_create("marlcore")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor
