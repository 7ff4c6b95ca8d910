"""A worker process seen from its parent: started, asked, watched, replaced."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

from marlcore.config import EnvConfig
from marlcore.envs.channel import FAILED, MEMORY, START, Arrays, Channel, Message, Silence
from marlcore.envs.protocol import EnvSpec
from marlcore.envs.wire import spec_of

_START_TIMEOUT_S = 300.0  # imports and compilation of a simulator on a busy machine
_CLOSE_TIMEOUT_S = 5.0
_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "LP_NUM_THREADS",
)


class WorkerFailure(Exception):  # noqa: N818  # an event that is answered, not yet an error
    """A worker raised, exited, was killed or went silent.

    Args:
        summary: One line.
        details: The worker's traceback, where there is one.
        is_value_error: Whether it raised a ValueError, whose message then is `message`.
    """

    def __init__(
        self, summary: str, *, details: str = "", is_value_error: bool = False, message: str = ""
    ) -> None:
        super().__init__(summary)
        self.summary = summary
        self.details = details
        self.is_value_error = is_value_error
        self.message = message

    def as_error(self, event: str) -> ValueError | RuntimeError:
        """Return the exception for the user: a ValueError as it was raised, or the fault."""
        if self.is_value_error:
            return ValueError(self.message)
        return RuntimeError("\n".join(filter(None, (f"{event}: {self.summary}", self.details))))


class Worker:
    """A process that holds the environments of some rows.

    Args:
        config: Of every environment.
        seed: Of the run.
        first_index: Index of its first environment in the run.
        rows: Its environments' rows of the buffers.
        timeout_s: Silence after which it counts as hung.
        stagger_episodes: See `make_vector_env`.
    """

    def __init__(
        self,
        config: EnvConfig,
        *,
        seed: int,
        first_index: int,
        rows: slice,
        timeout_s: float,
        stagger_episodes: bool,
    ) -> None:
        self.rows = rows
        self.failures_in_a_row = 0
        self._timeout_s = timeout_s
        task = {
            "config": config.model_dump(mode="json"),
            "seed": seed,
            "first_index": first_index,
            "num_envs": rows.stop - rows.start,
            "stagger_episodes": stagger_episodes,
        }
        self._task = Message(START, text=json.dumps(task))
        self._is_answer_due = False
        self._start()

    @property
    def process_id(self) -> int:
        """Of the process at present."""
        return self._process.pid

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        # The death signal comes when the thread that started the child ends: main threads only.
        in_main_thread = threading.current_thread() is threading.main_thread()
        environment = os.environ | dict.fromkeys(_ONE_THREAD, "1")
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        arguments = [str(theirs.fileno()), str(os.getpid() if in_main_thread else 0)]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "marlcore.envs.worker", *arguments],
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._channel = Channel(ours)
        self._is_answer_due = False
        self.send(self._task)

    def restart(self) -> None:
        """Replace the process by a fresh one, which makes its environments anew."""
        self.kill()
        self._start()

    def receive_spec(self) -> EnvSpec:
        """Wait until the environments are made."""
        return spec_of(self._receive(_START_TIMEOUT_S))

    def attach(self, descriptor: int, size: int, num_envs: int) -> None:
        """Hand over the shared memory."""
        where = {"size": size, "num_envs": num_envs, "first_row": self.rows.start}
        with contextlib.suppress(OSError):
            self._channel.send(Message(MEMORY, text=json.dumps(where)))
            self._channel.send_file(descriptor)

    def send(self, message: Message) -> None:
        """Send a command. A dead worker is noticed by `receive`."""
        if self._is_answer_due:
            raise RuntimeError(
                "a command to an environment worker was interrupted before its answer came; close "
                "the vector environment and make a new one"
            )
        self._is_answer_due = True
        with contextlib.suppress(OSError):
            self._channel.send(message)

    def receive(self, *, is_load: bool = False) -> Arrays:
        """Wait for the answer to the last command.

        Args:
            is_load: Whether an episode is run again, which takes longer than a decision.

        Raises:
            WorkerFailure: there will be none.
        """
        return self._receive(self._timeout_s + is_load * _START_TIMEOUT_S).arrays

    def _receive(self, timeout_s: float) -> Message:
        try:
            message = self._channel.receive(timeout_s)
        except Silence:
            self._is_answer_due = False
            self.kill()
            raise WorkerFailure(f"silent for {timeout_s:g} s") from None
        except (EOFError, OSError):
            self._is_answer_due = False
            raise WorkerFailure(self._how_it_ended()) from None
        self._is_answer_due = False
        if message.kind == FAILED:
            report = json.loads(message.text)
            self.kill()
            raise WorkerFailure(
                report["summary"],
                details=report["traceback"],
                is_value_error=report["is_value_error"],
                message=report["message"],
            )
        return message

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "closed its socket and went on"
        if code >= 0:
            return f"exited with code {code}"
        return f"killed by {signal.Signals(-code).name}"

    def kill(self) -> None:
        """End the process at once."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def begin_close(self) -> None:
        """Ask it to close its environments and exit."""
        self._channel.close()

    def finish_close(self) -> None:
        """Wait for the exit, not for ever."""
        try:
            self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
