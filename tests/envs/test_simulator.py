import subprocess
import sys
from typing import Any

import pytest

from marlcore.config import PegInHoleConfig
from marlcore.envs import simulator
from marlcore.envs.peg_in_hole import PegInHoleEnv


def test_bad_cameras_robots_rates_and_rewards_are_refused_with_a_way_out() -> None:
    for config, message in [
        ({"cameras": ("frontvew",)}, "did you mean 'frontview'.*Allowed are .*agentview"),
        ({"cameras": ("robot0_eye_in_hand",)}, r"gives the agents \[1, 0\] views"),
        ({"cameras": ("frontview", "frontview")}, "names a camera twice"),
        ({"robots": ("Panda", "Sawyr")}, "did you mean 'Sawyer'"),
        ({"robots": ("Panda", "Baxter")}, "'Baxter' is no one-armed robot"),
        ({"control_hz": 60}, "60 does not divide the 500"),
        ({"task": "TwoArmTransport", "reward": "dense"}, "use env.reward=sparse"),
    ]:
        with pytest.raises(ValueError, match=message):
            PegInHoleEnv(PegInHoleConfig(**config), seed=0)


def test_importing_the_module_imports_no_simulator_and_making_one_is_quiet(tmp_path: Any) -> None:
    program = (
        "import sys; from marlcore.config import PegInHoleConfig;"
        "from marlcore.envs.peg_in_hole import PegInHoleEnv;"
        "assert not {'robosuite', 'mujoco', 'torch'} & set(sys.modules);"
        "env = PegInHoleEnv(PegInHoleConfig(), seed=0); env.reset(0); env.render()"
    )
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"import sys; sys.path[:0] = {path}; {program}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_missing_system_libraries_are_named_with_the_command_that_installs_them() -> None:
    program = (
        "import sys, ctypes, marlcore.envs.simulator as simulator\n"
        "class Without:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'cv2':\n"
        "            raise ImportError('libGL.so.1: cannot open shared object file')\n"
        "sys.meta_path.insert(0, Without())\n"
        "simulator._loads = lambda library: library != 'libGL.so.1'\n"
        "simulator.import_robosuite()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "has no libGL.so.1. Install with: apt-get install -y" in done.stderr


@pytest.mark.parametrize(("backend", "package"), [("egl", "libegl1"), ("osmesa", "libosmesa6")])
def test_each_way_to_opengl_names_its_own_package(
    monkeypatch: pytest.MonkeyPatch, backend: str, package: str
) -> None:
    def refuse(name: str) -> None:
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")

    monkeypatch.setenv("MUJOCO_GL", backend)
    monkeypatch.setattr(simulator.importlib, "import_module", refuse)
    monkeypatch.setattr(simulator, "_loads", lambda name: "EGL" not in name and "Mesa" not in name)
    with pytest.raises(ImportError, match=f"machine has no lib.*Install with: apt-get.* {package}"):
        simulator.import_robosuite()
