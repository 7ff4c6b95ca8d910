"""What the end of an attempt makes of srun's words."""

from __future__ import annotations

from slurm.attempt import deaths


def test_a_process_that_died_by_itself_is_told_from_those_it_took_along() -> None:
    said = (
        "srun: error: n1: task 0: Killed\n"
        "srun: launch/slurm: _step_signal: Terminating StepId=39.0\n"
        "srun: error: n2: task 1: Terminated\n"
    )
    assert deaths(said) == ["process 0 on n1: Killed"]


def test_processes_that_were_told_to_stop_did_not_die_by_themselves() -> None:
    said = (
        "slurmstepd-n1: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-11-26T10:00:00 ***\n"
        "srun: error: n1: tasks 0-1: Terminated\n"
        "srun: error: n2: task 2: User defined signal 2\n"
        "srun: error: n2: task 3: Exited with exit code 143\n"
    )
    assert deaths(said) == []


def test_a_code_of_a_process_is_a_death_too() -> None:
    assert deaths("srun: error: n2: tasks 2-3: Exited with exit code 1\n") == [
        "process 2-3 on n2: Exited with exit code 1"
    ]
