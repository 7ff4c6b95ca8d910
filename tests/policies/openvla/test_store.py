"""Rows kept in memory or on disk, images found again by what they show, micro-batches that fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from marlcore.policies.openvla.images import prepare, resize
from marlcore.policies.openvla.memory import (
    Budget,
    RowCost,
    choose_microbatch,
    even_part,
    free_bytes,
    saved_bytes,
)
from marlcore.policies.openvla.store import ImageCache, RowStore
from tests.policies.openvla.helpers import CPU


def make_store(capacity: int, *, limit: float = 1.0, folder: Path | None = None) -> RowStore:
    return RowStore(capacity, (2, 3), torch.float32, memory_limit_gib=limit, folder=folder)


@pytest.mark.parametrize("limit", [1.0, 0.0])
def test_rows_come_back_by_their_serial_number(limit: float, tmp_path: Path) -> None:
    store = make_store(5, limit=limit, folder=tmp_path)
    assert store.on_disk == (limit == 0.0)
    assert not list(tmp_path.iterdir())  # the file has no name: it ends with the process
    rows = torch.randn(8, 2, 3)
    assert store.put(rows[:3]).tolist() == [0, 1, 2]
    assert store.put(rows[3:]).tolist() == [3, 4, 5, 6, 7]
    wanted = torch.tensor([[7, 3], [5, 4]])
    assert torch.equal(store.get(wanted, CPU), rows[wanted])
    for gone in (2, 8):
        with pytest.raises(RuntimeError, match=f"row {gone} is gone: 5 are kept, 3 is the oldest"):
            store.get(torch.tensor([gone]), CPU)


def test_a_disk_without_room_is_said_before_the_run() -> None:
    with pytest.raises(ValueError, match=r"GiB of image features do not go to .*feature_folder"):
        RowStore(10**9, (10**6,), torch.float32, memory_limit_gib=1.0)
    with pytest.raises(ValueError, match="do not go to /nowhere"):
        make_store(5, limit=0.0, folder=Path("/nowhere"))


def picture(number: int) -> Tensor:
    return torch.full((4, 4, 3), number, dtype=torch.uint8)


def make_cache(span: int, capacity: int) -> tuple[ImageCache, list[int]]:
    encoded: list[int] = []

    def encode(images: Tensor, keys: Sequence[Any]) -> Tensor:
        encoded.extend(images[:, 0, 0, 0].tolist())
        shift = torch.tensor([float(key or 0) for key in keys])
        return (images[:, 0, 0, 0] + shift).view(-1, 1, 1).expand(-1, 2, 3).float()

    return ImageCache(make_store(capacity), encode, span=span), encoded


@given(
    batches=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4), min_size=1, max_size=40)
)
def test_what_a_rollout_named_is_there_and_is_what_it_shows(batches: list[list[int]]) -> None:
    """The newest `span` images named can all be read, whatever came in between."""
    span = 16
    cache, _ = make_cache(span, capacity=span + 13)
    named: list[tuple[int, int]] = []
    for numbers in batches:
        images = torch.stack([picture(number) for number in numbers])
        serials = cache.serials(images, [None] * len(numbers))
        named.extend(zip(numbers, serials.tolist(), strict=True))
    recent = named[-span:]
    rows = cache._store.get(torch.tensor([serial for _, serial in recent]), CPU)
    assert rows[:, 0, 0].tolist() == [float(number) for number, _ in recent]


def test_an_image_is_encoded_once_for_each_key() -> None:
    cache, encoded = make_cache(span=8, capacity=32)
    images = torch.stack([picture(1), picture(2), picture(1)])
    first = cache.serials(images, [None, None, None])
    assert first[0] == first[2] != first[1]
    assert encoded == [1, 2]
    assert torch.equal(cache.serials(images, [None, None, None]), first)
    assert cache.num_encoded == len(encoded) == 2
    with_keys = cache.serials(images, [0, 0, 5])
    assert len(set(with_keys.tolist())) == 3
    assert cache._store.get(with_keys, CPU)[:, 0, 0].tolist() == [1.0, 2.0, 6.0]


@given(num_rows=st.integers(1, 300), at_most=st.integers(0, 400))
def test_parts_fit_and_are_few(num_rows: int, at_most: int) -> None:
    size = even_part(num_rows, at_most)
    assert 1 <= size <= max(1, min(at_most, num_rows))
    fewest = -(-num_rows // max(1, min(at_most, num_rows)))
    assert -(-num_rows // size) <= 2 * fewest
    assert even_part(12, 7) == 6  # equal parts, though 7 would fit
    assert even_part(13, 7) == 7


def test_what_a_forward_pass_keeps_is_counted_without_weights() -> None:
    linear = nn.Linear(10, 7).requires_grad_(False)
    x = torch.randn(4, 10, requires_grad=True)
    kept = saved_bytes(lambda: (linear(x) * 2).relu(), linear.parameters())
    assert kept == 4 * 7 * 4  # the ReLU's output alone: a frozen map keeps nothing of its input
    with torch.device("meta"):
        elsewhere, y = (
            nn.Linear(10, 7).requires_grad_(False),
            torch.zeros(8, 10, requires_grad=True),
        )
    assert saved_bytes(lambda: elsewhere(y).relu(), elsewhere.parameters()) == 8 * 7 * 4


def test_layers_are_recomputed_only_where_it_does_not_fit() -> None:
    cost = RowCost(around=4, layer=24, layer_input=1, num_layers=4)
    assert (cost.kept, cost.recomputed) == (100, 32)

    def choose(recompute: Any, memory: int, asked: int | None = None) -> tuple[int, bool]:
        choice = choose_microbatch(cost, 8, Budget(recompute), memory, asked)
        return choice.rows, choice.recompute

    assert choose("auto", 1000) == (8, False)
    assert choose("auto", 250) == (2, False)
    assert choose("auto", 99) == (2, True)  # three would fit, and two divides
    assert choose("on", 1000) == (8, True)
    assert choose("auto", 32) == (1, True)
    for recompute, memory in (("off", 99), ("auto", 31)):
        with pytest.raises(ValueError, match="one row of the update keeps"):
            choose(recompute, memory)
    assert choose("auto", 31, asked=1) == (1, True)  # the user's choice is tried
    assert choose("auto", 150, asked=2) == (2, True)
    assert choose("auto", 200, asked=2) == (2, False)
    assert choose("off", 1, asked=2) == (2, False)
    assert free_bytes(CPU) > 0


def test_a_container_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from marlcore.policies.openvla import memory

    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("500\n")
    (tmp_path / "memory.stat").write_text("anon 200\ninactive_file 300\n")
    assert free_bytes(CPU) == 400
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert free_bytes(CPU) == 200
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) > 400


def test_libero_pictures_are_mirrored_and_their_middle_is_scaled_up() -> None:
    size = 57  # odd: the middle pixel stays
    ramp = torch.arange(size).view(1, 1, size, 1).expand(1, size, size, 3)
    images = (ramp * 4).to(torch.uint8).contiguous()
    assert torch.equal(prepare(images, "plain", size), images)
    prepared = prepare(images, "libero", size)[0, 0, :, 0].double()
    # Mirrored, and between the outermost pixels the ramp is 0.9 ** 0.5 as steep.
    steps = torch.arange(size).double() - size // 2
    expected = size // 2 * 4 - steps * 4 * 0.9**0.5
    assert (prepared - expected).abs().max() <= 1.0


def test_other_sizes_are_resized_and_equal_ones_untouched() -> None:
    from PIL import Image

    images = torch.randint(0, 255, (2, 8, 12, 3), dtype=torch.uint8)
    assert resize(images, 6, Image.Resampling.BICUBIC).shape == (2, 6, 6, 3)
    square = images[:, :, :8]
    assert resize(square, 8, Image.Resampling.BICUBIC) is square
