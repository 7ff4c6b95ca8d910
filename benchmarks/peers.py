"""Make the environments that other libraries are measured in: build/peers/sb3 and .../benchmarl.

    python benchmarks/peers.py            # both
    python benchmarks/peers.py sb3        # one

Every version is fixed by benchmarks/peers-NAME.txt, a complete list: nothing else is installed.
torch comes first, alone and with its dependencies, from wherever this machine's pip takes it; where
no GPU is, `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu` spares the CUDA build.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks._report import PEERS, ROOT, say

NAMES = ("sb3", "benchmarl")
CHECKS = {
    "sb3": "import robosuite.wrappers, stable_baselines3",
    "benchmarl": "import benchmarl, torchrl",
}


def install(name: str) -> None:
    """Make one environment; one that is whole already is left alone."""
    place, wanted = PEERS / name, ROOT / "benchmarks" / f"peers-{name}.txt"
    python, stamp = place / "bin" / "python", place / "installed.txt"
    text = wanted.read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == text:
        say(f"{place} is there already")
        return
    say(f"making {place}")
    venv.create(place, with_pip=True, clear=True)
    (torch,) = (line for line in text.splitlines() if line.startswith("torch=="))
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    say(f"installing {torch}")
    subprocess.run([*pip, torch], check=True)
    say(f"installing {wanted.relative_to(ROOT)}")
    subprocess.run([*pip, "--no-deps", "--requirement", str(wanted)], check=True)
    subprocess.run([str(python), "-c", CHECKS[name]], check=True, capture_output=True)
    stamp.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (all)")
    names = parser.parse_args().names or list(NAMES)
    if unknown := sorted(set(names) - set(NAMES)):
        parser.error(f"{', '.join(unknown)}: no such peer; there are {', '.join(NAMES)}")
    for name in names:
        install(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
