"""OpenVLA agents: passes and updates a second, share of the machine's peak, against the naive way.

    python benchmarks/openvla.py                 on a GPU the 7B shape, on a CPU the tiny one
    python benchmarks/openvla.py --shape small   a model whose arithmetic counts on a CPU as well
    python benchmarks/openvla.py --memory        what a row of the 7B update keeps, on any machine
    python benchmarks/openvla.py --markdown      rows for docs/BENCHMARKS.md

Weights are random. Two agents, chunk 4, four images a pass (front and wrist, two frames). The naive
way encodes an agent's images in every pass and every epoch, one sample and one agent at a time.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

if not __package__:  # run as a file: import from the repository, not from this directory
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import _report
from marlcore.config import OpenVLAConfig
from marlcore.envs.protocol import ActionSpec, EnvSpec
from marlcore.policies.beliefs import EstimateBeliefs, no_beliefs
from marlcore.policies.layout import Kept
from marlcore.policies.openvla import OpenVLAActors, build_actors, random_model
from marlcore.policies.openvla.shape import FULL_SIZE, ModelShape, TowerShape, tower_shapes
from marlcore.policies.openvla.tiny import TINY, describe
from marlcore.types import Inputs

NUM_AGENTS, CHUNK, HISTORY, VIEWS, DIMS, PROPRIO = 2, 4, 2, 2, 6, 8
NUM_IMAGES = HISTORY * VIEWS


def _small() -> ModelShape:
    towers = {"embed_dim": 192, "depth": 7, "num_heads": 3}
    dino, siglip = tower_shapes(towers, towers)
    sizes = {"image_size": 112, "hidden_size": 384, "intermediate_size": 1024}
    heads = {"num_hidden_layers": 8, "num_attention_heads": 6, "num_key_value_heads": 6}
    return ModelShape(**{**TINY.__dict__, **sizes, **heads, "dino": dino, "siglip": siglip})


SHAPES: dict[str, Callable[[], ModelShape]] = {
    "tiny": lambda: TINY,
    "small": _small,
    "7b": lambda: FULL_SIZE,
}


@dataclass
class Bench:
    """Actors of random weights on a device, and pictures for them."""

    actors: OpenVLAActors
    shape: ModelShape
    device: torch.device
    rng: np.random.Generator
    optimiser: torch.optim.Optimizer
    frames: dict[int, Tensor]
    """Newest frames by number of environments."""

    def observe(self, num_envs: int) -> Inputs:
        """Return the next observations: each agent's newest frame moves one back."""
        size = self.shape.image_size
        new = self.rng.integers(0, 255, (num_envs, 3, size, size, 3), dtype=np.uint8)
        front, wrists = new[:, :1], new[:, 1:]
        views = [np.concatenate([front, wrists[:, i : i + 1]], 1) for i in range(NUM_AGENTS)]
        newest = torch.from_numpy(np.stack(views, 1)).unsqueeze(2).to(self.device)
        previous = self.frames.get(num_envs, newest)
        self.frames[num_envs] = newest
        proprio = self.rng.uniform(-1, 1, (num_envs, NUM_AGENTS, HISTORY, PROPRIO))
        return {
            "images": torch.cat([newest, previous], dim=2),
            "proprio": torch.from_numpy(proprio).float().to(self.device),
        }

    def decide(self, observations: Inputs) -> Inputs:
        """One decision of ACPPO as the library makes it; returns what is kept of it."""
        inputs = self.actors.encode(observations)
        inputs["beliefs"] = EstimateBeliefs().compute(self.actors, inputs)
        distribution, _ = self.actors.act(inputs, inputs["beliefs"])
        return {**inputs, "actions": distribution.mode()}

    def naive_pass(
        self, observations: Inputs, row: int, agent: int, beliefs: Tensor, observer: int | None
    ) -> Any:
        """One agent, one sample, its pictures through the towers anew."""
        images = observations["images"][row, agent].flatten(0, 1)
        features = self.actors.sight.encode(images, [None] * len(images))
        serials = self.actors.sight.store.put(features)
        inputs = {
            "images": serials.expand(1, NUM_AGENTS, -1).to(self.device),
            "proprio": observations["proprio"][row : row + 1],
        }
        return self.actors.distribution(inputs, beliefs, agents=[agent], observer=observer)

    def naive_decide(self, observations: Inputs) -> None:
        """The same decision, the naive way: three passes a sample, each with its own pictures."""
        for row in range(len(observations["proprio"])):
            nothing = no_beliefs(self.actors.layout, observations["proprio"][row : row + 1])
            estimate = self.naive_pass(observations, row, 0, nothing, observer=1)
            belief = estimate.parameters().expand(-1, NUM_AGENTS, -1)
            for agent in range(NUM_AGENTS):
                self.naive_pass(observations, row, agent, belief, observer=None)

    def update(self, inputs: Inputs, size: int) -> None:
        """One optimiser step on some rows, forward and backward in microbatches."""
        self.optimiser.zero_grad()
        for start in range(0, len(inputs["proprio"]), size):
            rows = {name: tensor[start : start + size] for name, tensor in inputs.items()}
            distribution, _ = self.actors.act(rows, rows["beliefs"])
            distribution.log_prob(rows["actions"] + 0.1).sum().backward()
        self.optimiser.step()

    def naive_update(self, observations: Inputs, inputs: Inputs) -> None:
        """The same step, one agent and one sample at a time."""
        self.optimiser.zero_grad()
        for row in range(len(inputs["proprio"])):
            for agent in range(NUM_AGENTS):
                belief = inputs["beliefs"][row : row + 1]
                distribution = self.naive_pass(observations, row, agent, belief, None)
                actions = inputs["actions"][row : row + 1, agent : agent + 1]
                distribution.log_prob(actions + 0.1).sum().backward()
        self.optimiser.step()


def make_bench(
    shape: ModelShape,
    device: torch.device,
    num_envs: int,
    dtype: torch.dtype | None = None,
    **settings: Any,
) -> Bench:
    """Build the actors; nothing of the backbone passes through a disk."""
    torch.manual_seed(0)
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    images = (NUM_AGENTS, HISTORY, VIEWS, shape.image_size, shape.image_size, 3)
    spec = EnvSpec(
        num_agents=NUM_AGENTS,
        actions=ActionSpec("continuous", (DIMS,) * NUM_AGENTS),
        observation_shapes={"proprio": (NUM_AGENTS, HISTORY, PROPRIO), "images": images},
        observation_dtypes={"proprio": "float32", "images": "uint8"},
        instructions=("insert the peg into the hole",) * NUM_AGENTS,
        num_shared_views=1,
        proprio_quantiles=np.array([[-1.0] * PROPRIO, [1.0] * PROPRIO]),
        chunk_length=CHUNK,
    )
    with tempfile.TemporaryDirectory() as folder:
        describe(Path(folder), shape)
        config = OpenVLAConfig(
            kind="openvla", pretrained_checkpoint=folder, image_preparation="plain", **settings
        )
        actors, notes = build_actors(
            config,
            spec,
            uses_beliefs=True,
            kept=Kept(4 * num_envs, num_envs),
            generator=torch.Generator().manual_seed(0),
            device=device,
            backbone=random_model(device=device, dtype=dtype, shape=shape),
        )
    for line in notes:
        _report.say(line)
    trained = [parameter for parameter in actors.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trained, lr=1e-6)
    return Bench(actors, shape, device, np.random.default_rng(0), adam, {})


def tower_flops(tower: TowerShape, num_patches: int) -> float:
    """Multiply-adds count twice; the last block is not run."""
    width, tokens = tower.embed_dim, num_patches + 5 * bool(tower.num_registers)
    linear = 2 * tokens * (4 * width**2 + 2 * width * tower.mlp_dim)
    return (tower.depth - 1) * (linear + 4 * width * tokens**2)


def image_flops(shape: ModelShape) -> float:
    """Of one image through both towers."""
    return sum(tower_flops(tower, shape.num_patches) for tower in (shape.dino, shape.siglip))


def pass_flops(shape: ModelShape, num_tokens: int) -> float:
    """Of one pass of projector and trunk (with the towers, 7B: 16.3 TFLOP at 1082 tokens)."""
    hidden, feature = shape.hidden_size, shape.feature_size
    layer = 4 * hidden**2 + 3 * hidden * shape.intermediate_size
    trunk = 2 * shape.num_hidden_layers * layer * num_tokens
    attention = 4 * shape.num_hidden_layers * hidden * num_tokens**2
    projector = 2 * (4 * feature**2 + 4 * feature * hidden + hidden**2)
    return trunk + attention + projector * NUM_IMAGES * shape.num_patches


def seconds(function: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the fastest of some calls, after one that warms up."""
    function()
    best = float("inf")
    for _ in range(rounds):
        _wait(device)
        start = time.perf_counter()
        function()
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def matmul_peak(device: torch.device) -> float:
    """Return the measured FLOP/s of a large matrix product in the type the trunk runs in."""
    size = 8192 if device.type == "cuda" else 2048
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device, rounds=10)


def peak_memory_gib(device: torch.device) -> float:
    """Return the highest memory so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(bench: Bench, batch: int, rounds: int) -> list[_report.Row]:
    """Measure everything at one batch of environments."""
    device, shape, actors = bench.device, bench.shape, bench.actors
    peak = matmul_peak(device)
    num_tokens = actors.num_tokens
    flops = pass_flops(shape, num_tokens)
    observations = bench.observe(batch)
    with torch.no_grad():
        inputs = bench.decide(observations)
        forward_s = seconds(lambda: actors.act(inputs, inputs["beliefs"]), device, rounds)
        decide_s = seconds(lambda: bench.decide(bench.observe(batch)), device, rounds)
        with torch.compiler.set_stance("force_eager"):  # never compiled
            naive_s = seconds(
                lambda: bench.naive_decide(bench.observe(batch)), device, max(1, rounds // 2)
            )
    observations = bench.observe(batch)
    with torch.no_grad():
        inputs = bench.decide(observations)
    actors.microbatch.zero_()
    size = actors.microbatch_size(inputs, None, 0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    update_s = seconds(lambda: bench.update(inputs, size), device, rounds)
    update_memory = f"{peak_memory_gib(device):.1f} GiB"
    with torch.compiler.set_stance("force_eager"):  # never compiled
        naive_update_s = seconds(
            lambda: bench.naive_update(observations, inputs), device, max(1, rounds // 2)
        )
    passes = NUM_AGENTS * batch
    rate, update_rate = passes / forward_s, passes / update_s
    recompute = " with activation checkpointing" if actors.recompute else ""

    def share(per_second: float, per_sample: float) -> str:
        achieved = per_second * per_sample
        return f"{achieved / 1e12:.3g} TFLOP/s, {100 * achieved / peak:.0f} % of {peak / 1e12:.3g}"

    def against(what: str, ours_s: float, naive_s: float) -> _report.Row:
        ours, naive = f"{batch / ours_s:.3g}/s", f"{batch / naive_s:.3g}/s naive"
        return _report.Row(what, ours, naive, f"{naive_s / ours_s:.2f}")

    tokens = f"{rate:.3g} passes/s, {rate * num_tokens:.3g} tokens/s"
    update = f"LoRA update, microbatch {size}{recompute}"
    updated = f"{update_rate:.3g} samples/s, {share(update_rate, 2 * flops)}"
    rows = [
        _report.Row("passes without gradient", f"{tokens}, {share(rate, flops)}", "-", "-"),
        _report.Row(update, updated, "-", "-"),
        against("joint decisions of ACPPO, pictures included", decide_s, naive_s),
        against("rows of an epoch, both agents", update_s, naive_update_s),
        _report.Row("highest memory of the update", update_memory, "-", "-"),
    ]
    where = f"{batch} environment{'s' * (batch > 1)}"
    return [_report.Row(f"{r.measurement}, {where}", r.ours, r.peer, r.ratio) for r in rows]


def memory() -> None:
    """Print what one row of the 7B update keeps, from a model of one of its layers."""
    shape = dataclasses.replace(FULL_SIZE, num_hidden_layers=1)
    bench = make_bench(shape, torch.device("cpu"), num_envs=1, dtype=torch.bfloat16)
    actors, depth = bench.actors, FULL_SIZE.num_hidden_layers
    nothing = torch.zeros(NUM_IMAGES, shape.num_patches, shape.feature_size)
    serials = actors.sight.store.put(nothing)
    row = {
        "images": serials.expand(1, NUM_AGENTS, -1),
        "proprio": torch.zeros(1, NUM_AGENTS, HISTORY, PROPRIO),
        "beliefs": torch.zeros(1, NUM_AGENTS, actors.layout.belief_size),
    }
    cost = dataclasses.replace(actors.row_cost(row), num_layers=depth)
    upper = dataclasses.replace(cost, num_layers=8)
    rows = [
        ("a layer", cost.layer),
        ("around the layers", cost.around),
        (f"all {depth} layers, everything kept", cost.kept),
        ("8 upper layers alone (proprio projectors frozen)", upper.kept),
        ("all layers, computed again (checkpointing)", cost.recomputed),
    ]
    cells = [(name, f"{size / 2**30:.3f} GiB") for name, size in rows]
    _report.print_table(("kept by one row, both agents, bfloat16", "memory"), cells)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=sorted(SHAPES), help="size of the model")
    parser.add_argument("--batches", default="", help="environments, for example 1,4,16")
    parser.add_argument("--rounds", type=int, default=5, help="the fastest of so many counts")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU (1)")
    parser.add_argument("--compile", action="store_true", help="with policy.compile=true")
    parser.add_argument("--memory", action="store_true", help="activations of the 7B update")
    parser.add_argument("--markdown", action="store_true", help="rows for docs/BENCHMARKS.md")
    options = parser.parse_args()
    if options.memory:
        memory()
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(options.threads)
    name = options.shape or ("7b" if device.type == "cuda" else "tiny")
    shape = SHAPES[name]()
    default = "1,4,8,16" if device.type == "cuda" else "1,4,8"
    batches = [int(part) for part in (options.batches or default).split(",")]
    gpu = f" on {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    bench = make_bench(shape, device, num_envs=max(batches), compile=options.compile)
    image = f"{image_flops(shape) / 1e12:.3g} TFLOP an image"
    per_pass = f"{pass_flops(shape, bench.actors.num_tokens) / 1e12:.4g} TFLOP a pass"
    _report.say(f"{name}{gpu}: {bench.actors.num_tokens} tokens, {per_pass}, {image}")
    rows = [row for batch in batches for row in measure(bench, batch, options.rounds)]
    how = ", compiled" if options.compile else ""
    rows = [
        _report.Row(f"OpenVLA {name}{gpu}{how}: {r.measurement}", r.ours, r.peer, r.ratio)
        for r in rows
    ]
    if options.markdown:
        _report.print_markdown(rows)
        return
    header = ("measurement", "ours", "naive", "ratio")
    _report.print_table(header, [(r.measurement, r.ours, r.peer, r.ratio) for r in rows])


if __name__ == "__main__":
    main()
