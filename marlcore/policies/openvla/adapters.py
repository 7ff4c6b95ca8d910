# pyright: basic
"""LoRA adapters: read from PEFT's layout, merged into the weights, or put in place for training.

Layers are PEFT's. An agent's rows pass through its own adapter: `Adapters.scope` says whose rows
come, and each adapted layer asks it. Trained adapters are float32 beside any trunk.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from marlcore.policies.openvla.checkpoint import is_unused
from marlcore.policies.openvla.folder import read_json
from marlcore.policies.openvla.language import LanguageModel
from marlcore.policies.openvla.model import OpenVLA
from marlcore.policies.openvla.tensors import faults, read_safetensors, shapes_of, write_json

_PREFIX = "base_model.model."
_WEIGHTS, _SETTINGS = "adapter_model.safetensors", "adapter_config.json"
_LOADED = "loaded"


class Adapters:
    """Adapters in training, one for all agents or one each, on the trunk's upper layers.

    Args:
        trunk: gets the adapted layers.
        names: one per adapter; row i of a batch is told which by `scope`.
        rank: r.
        alpha: the update is alpha / r times B A.
        num_layers: how many of the upper layers; None: all.
        targets: regular expression on the names of linear maps in a layer.
        generator: of A's initial values; B starts at zero.
    """

    def __init__(
        self,
        trunk: LanguageModel,
        names: Sequence[str],
        *,
        rank: int,
        alpha: float,
        num_layers: int | None,
        targets: str,
        generator: torch.Generator,
    ) -> None:
        depth = len(trunk.model.layers)
        if num_layers is not None and num_layers > depth:
            raise ValueError(
                f"policy.lora_layers={num_layers}, and the trunk has {depth} layers; give {depth} "
                "at most, or null for all"
            )
        first = depth - (depth if num_layers is None else num_layers)
        layers = "|".join(str(i) for i in range(first, depth)) or "none"
        pattern = rf"model\.layers\.({layers})\.({targets})"
        self._names = tuple(names)
        self._settings = {"r": rank, "lora_alpha": alpha, "target_modules": pattern}
        self._rows: list[str] | None = None
        self._trunk = trunk
        self.first_layer = first
        """The first adapted layer; what lies below never changes."""
        if first == depth:
            return
        matched = [
            n
            for n, m in trunk.named_modules()
            if isinstance(m, nn.Linear) and re.fullmatch(pattern, n)
        ]
        if not matched:
            raise ValueError(
                f"policy.lora_targets={targets!r} matches no linear map of the trunk's layers; "
                "they are self_attn.{q,k,v,o}_proj and mlp.{gate,up,down}_proj"
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several: wanted
            for name in self._names:
                inject_adapter_in_model(LoraConfig(**self._settings), trunk, adapter_name=name)
        for layer in _layers(trunk):
            layer.set_adapter(list(self._names))
            self._initialise(layer, generator)
            layer.cast_input_dtype_enabled = False  # autocast rounds the weights instead
            layer.register_forward_pre_hook(self._tell_rows, with_kwargs=True)

    @contextmanager
    def scope(self, rows: Sequence[str]) -> Generator[None]:
        """While it lasts, row i of a batch passes through adapter rows[i]."""
        before, self._rows = self._rows, list(rows) if len(self._names) > 1 else None
        try:
            yield
        finally:
            self._rows = before

    def save(self, name: str, folder: Path) -> None:
        """Write adapter `name` in PEFT's layout; nothing where no layer is adapted."""
        if _layers(self._trunk):
            save_adapter(self._trunk, name, folder, prefix="language_model.", **self._settings)

    def _initialise(self, layer: Any, generator: torch.Generator) -> None:
        for name in self._names:
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            a.data, b.data = (
                torch.empty_like(a, dtype=torch.float32),
                torch.zeros_like(b, dtype=torch.float32),
            )
            start = torch.empty(a.shape)
            nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            a.data.copy_(start)
            a.requires_grad_(True)
            b.requires_grad_(True)

    def _tell_rows(self, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        del layer
        if self._rows is None:  # one adapter for all
            return None
        return args, {**kwargs, "adapter_names": self._rows}


def load_adapter(model: OpenVLA, folder: Path) -> None:
    """Put a saved adapter in place, unmerged, as it was saved.

    Tensors that adapt what the policy does not use (`is_unused`) are left out.

    Raises:
        ValueError: naming each tensor that is missing, too many or of another shape.
    """
    if not (folder / _SETTINGS).is_file():
        raise ValueError(
            f"there is no {folder / _SETTINGS}; give the folder of an adapter in PEFT's layout "
            "(of an export: its folder lora_adapter)"
        )
    settings = read_json(folder / _SETTINGS)
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{folder} holds no LoRA adapter (peft_type {settings.get('peft_type')})")
    config = LoraConfig(
        r=settings["r"],
        lora_alpha=settings["lora_alpha"],
        target_modules=settings["target_modules"],
        layers_to_transform=settings.get("layers_to_transform"),
        layers_pattern=settings.get("layers_pattern"),
        rank_pattern=settings.get("rank_pattern") or {},
        alpha_pattern=settings.get("alpha_pattern") or {},
        use_rslora=settings.get("use_rslora", False),
        init_lora_weights=False,
    )
    inject_adapter_in_model(config, model, adapter_name=_LOADED)
    given = {
        name.removeprefix(_PREFIX).replace(".weight", f".{_LOADED}.weight"): tensor
        for name, tensor in read_adapter(folder).items()
        if not is_unused(name.removeprefix(_PREFIX), model.shape)
    }
    own = {name: t for name, t in model.state_dict().items() if f".{_LOADED}." in name}
    found = faults(shapes_of(own), shapes_of(given))
    if found:
        raise ValueError("\n".join([f"{folder / _WEIGHTS} does not fit:", *found]))
    model.load_state_dict(given, strict=False)
    model.requires_grad_(False)


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of a saved adapter, by the names in its file."""
    return read_safetensors(folder / _WEIGHTS)


def merge_adapters(model: nn.Module, only: str | None = None) -> None:
    """Add adapters (all, or one of them) to the weights they adapt, and take all away."""
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(adapter_names=None if only is None else [only])
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())


def save_adapter(
    model: nn.Module, name: str, folder: Path, *, prefix: str = "", **settings: Any
) -> None:
    """Write adapter `name` in PEFT's layout.

    Args:
        model: holds the adapted layers.
        name: of the adapter.
        folder: is made.
        prefix: where `model` stands in the whole network.
        settings: r, lora_alpha and target_modules.
    """
    marker = f".{name}.weight"
    tensors: dict[str, Tensor] = {
        f"{_PREFIX}{prefix}{key.replace(marker, '.weight')}": tensor.detach().cpu().contiguous()
        for key, tensor in model.state_dict().items()
        if key.endswith(marker) and ".lora_" in key
    }
    targets = sorted(
        {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    )
    layers = sorted({int(m[1]) for key in tensors if (m := re.search(r"layers\.(\d+)\.", key))})
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    document = {
        "peft_type": "LORA",
        "r": settings["r"],
        "lora_alpha": settings["lora_alpha"],
        "target_modules": targets,
        "layers_to_transform": layers,
        "lora_dropout": 0.0,
        "bias": "none",
        "task_type": None,
    }
    write_json(folder / _SETTINGS, document)


def _layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]
