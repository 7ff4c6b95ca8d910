"""The program of a worker process: `python -m marlcore.envs.worker SOCKET PARENT`.

It reads which environments to make, then obeys commands until its socket is closed. At a fault it
says what happened and exits: nobody goes on with the state its environments are in then.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import socket
import sys
import traceback

from pydantic import TypeAdapter

from marlcore.config import EnvConfig
from marlcore.envs.channel import (
    FAILED,
    LOAD,
    OK,
    RENDER,
    RESET,
    SAVE,
    STEP,
    Arrays,
    Channel,
    Message,
)
from marlcore.envs.decision import DecisionEnv
from marlcore.envs.group import EnvGroup, make_buffers
from marlcore.envs.make import make_decision_env
from marlcore.envs.wire import spec_message

_PR_SET_PDEATHSIG = 1


def die_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Be sent a signal when the parent's main thread ends, also in a step (Linux). 0: do not."""
    if parent and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def leave_signals_to_parent() -> None:
    """Ctrl-C and a scheduler's signals reach the whole process group; the parent answers."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def obey(group: EnvGroup, command: Message) -> Arrays:
    """Execute one command and return what the answer carries."""
    if command.kind == STEP:
        group.step()
    elif command.kind == RESET:
        group.reset()
    elif command.kind == RENDER:
        return {"picture": group.render(command.row)}
    elif command.kind == SAVE:
        return group.state_dict(command.row)
    else:
        assert command.kind == LOAD, command.kind
        group.load_state_dict(command.row, command.arrays)
    return {}


def make_envs(channel: Channel) -> list[DecisionEnv]:
    """Make the environments that the first message asks for and answer with their spec."""
    task = json.loads(channel.receive().text)
    config: EnvConfig = TypeAdapter[EnvConfig](EnvConfig).validate_json(json.dumps(task["config"]))
    indices = range(task["first_index"], task["first_index"] + task["num_envs"])
    seed, stagger = task["seed"], task["stagger_episodes"]
    envs = [
        make_decision_env(config, seed=seed, index=index, stagger_episodes=stagger)
        for index in indices
    ]
    channel.send(spec_message(envs[0].spec))
    return envs


def attach(channel: Channel, envs: list[DecisionEnv]) -> EnvGroup:
    """Map the shared memory and take this worker's rows of it."""
    where = json.loads(channel.receive().text)
    descriptor = channel.receive_file()
    memory = memoryview(mmap.mmap(descriptor, where["size"]))
    os.close(descriptor)
    buffers = make_buffers(envs[0].spec, where["num_envs"], memory)
    first = where["first_row"]
    return EnvGroup(envs, buffers.part(slice(first, first + len(envs))))


def serve(channel: Channel) -> None:
    """Make environments and obey until the channel is closed."""
    envs = make_envs(channel)
    group = attach(channel, envs)
    while True:
        try:
            command = channel.receive()
        except EOFError:
            group.close()
            return
        channel.send(Message(OK, arrays=obey(group, command)))


def main() -> int:
    """Serve; report a fault and return the exit code."""
    leave_signals_to_parent()
    descriptor, parent = map(int, sys.argv[1:])
    die_with(parent)
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        serve(channel)
    except (EOFError, BrokenPipeError):
        return 0  # the parent is gone; there is nobody to tell
    except Exception as error:
        report = {
            "is_value_error": isinstance(error, ValueError),
            "message": str(error),
            "summary": traceback.format_exception_only(error)[-1].strip(),
            "traceback": traceback.format_exc(),
        }
        channel.send(Message(FAILED, text=json.dumps(report)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
