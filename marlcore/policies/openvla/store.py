# pyright: basic
"""Rows computed once and kept: in memory, or in a file where memory's limit would be passed.

A row is named by its serial number; the newest `capacity` rows are there, older ones overwritten.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from marlcore.policies.openvla.memory import free_bytes

GIB = 1024**3
_GPU_SHARE = 0.1
"""Rows that take no more of a GPU's free memory than this stay there."""
_CPU = torch.device("cpu")


class RowStore:
    """A ring of equal tensors.

    Args:
        capacity: rows kept.
        row_shape: of one.
        dtype: of all.
        memory_limit_gib: above it the rows lie in a file that disappears with the process.
        folder: where that file is made; None: the system's temporary folder.
        gpu: keeps rows that take little of its memory itself; None: there is none.
    """

    def __init__(
        self,
        capacity: int,
        row_shape: Sequence[int],
        dtype: torch.dtype,
        *,
        memory_limit_gib: float,
        folder: Path | None = None,
        gpu: torch.device | None = None,
    ) -> None:
        shape = (capacity, *row_shape)
        self.num_bytes = math.prod(shape) * dtype.itemsize
        on_gpu = gpu is not None and self.num_bytes <= _GPU_SHARE * free_bytes(gpu)
        self.on_disk = not on_gpu and self.num_bytes > memory_limit_gib * GIB
        if on_gpu:
            self._rows = torch.empty(shape, dtype=dtype, device=gpu)
        elif self.on_disk:
            self._rows = _mapped(self.num_bytes, dtype, folder).view(shape)
        else:
            self._rows = torch.empty(shape, dtype=dtype)
        self.next_serial = 0
        """The serial number that the next row gets."""

    @property
    def capacity(self) -> int:
        """Rows kept."""
        return self._rows.shape[0]

    @property
    def place(self) -> str:
        """Where the rows are, for people."""
        return "a file" if self.on_disk else "memory" if self._rows.is_cpu else "GPU memory"

    def put(self, rows: Tensor) -> Tensor:
        """Keep rows [R, ...]; return their serial numbers [R], on the CPU."""
        serials = torch.arange(self.next_serial, self.next_serial + rows.shape[0])
        places = (serials % self.capacity).to(self._rows.device)
        self._rows[places] = rows.to(self._rows)
        self.next_serial += rows.shape[0]
        return serials

    def get(self, serials: Tensor, device: torch.device) -> Tensor:
        """Return the rows [..., *row_shape] of serial numbers [...].

        Raises:
            RuntimeError: if one of them is no longer (or not yet) there.
        """
        wanted = serials.cpu().flatten()
        oldest = max(0, self.next_serial - self.capacity)
        if wanted.numel() and not (
            oldest <= int(wanted.min()) and int(wanted.max()) < self.next_serial
        ):
            raise RuntimeError(
                f"row {int(wanted.min())} is gone: {self.capacity} are kept, {oldest} is the "
                "oldest; tell build_policy how many observations a rollout keeps (kept=Kept(...))"
            )
        places = (wanted % self.capacity).to(self._rows.device)
        rows = self._rows[places].to(device)
        return rows.unflatten(0, serials.shape) if serials.ndim != 1 else rows


class ImageCache:
    """Features of images, each computed once, ever: found again by what the image shows.

    Args:
        store: holds the features.
        encode: images [R, ...] uint8 and their keys to features [R, ...], on any device.
        span: images that one rollout may name; a row named now outlives so many new ones.
    """

    def __init__(
        self, store: RowStore, encode: Callable[[Tensor, Sequence[Hashable]], Tensor], *, span: int
    ) -> None:
        assert span < store.capacity
        self._store, self._encode = store, encode
        self._span = span
        self._serials: dict[Hashable, int] = {}
        self.num_encoded = 0
        """Images that went through the towers so far."""

    def serials(self, images: Tensor, keys: Sequence[Hashable]) -> Tensor:
        """Return serial numbers [R] of images [R, height, width, 3] uint8.

        Args:
            images: any, repeated ones too.
            keys: what besides the image its features depend on.
        """
        named = [
            (hashlib.blake2b(row.tobytes(), digest_size=16).digest(), key)
            for row, key in zip(images.cpu().numpy(), keys, strict=True)
        ]
        rows = {name: row for row, name in enumerate(named)}
        new = [name for name in rows if self._age(name) is None]
        oldest_kept = self._store.capacity - self._span - len(rows)
        fading = [name for name in rows if (self._age(name) or 0) >= max(1, oldest_kept)]
        kept = self._store.get(torch.tensor([self._serials[name] for name in fading]).long(), _CPU)
        if new:
            indices = [rows[name] for name in new]
            features = self._encode(images[indices], [keys[row] for row in indices])
            self._remember(new, self._store.put(features))
            self.num_encoded += len(new)
        if fading:  # they would not outlive a rollout
            self._remember(fading, self._store.put(kept))
        return torch.tensor([self._serials[name] for name in named])

    def _age(self, name: Hashable) -> int | None:
        """Rows put since; None: not there."""
        serial = self._serials.get(name)
        if serial is None:
            return None
        age = self._store.next_serial - serial
        return age if age <= self._store.capacity else None

    def _remember(self, names: Sequence[Hashable], serials: Tensor) -> None:
        self._serials |= dict(zip(names, serials.tolist(), strict=True))
        if len(self._serials) > 2 * self._store.capacity:
            self._serials = {n: s for n, s in self._serials.items() if self._age(n) is not None}


def _mapped(num_bytes: int, dtype: torch.dtype, folder: Path | None) -> Tensor:
    """Return a flat tensor in a file without a name, whose room is taken on the disk at once."""
    place = Path(tempfile.gettempdir() if folder is None else folder)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix="marlcore-rows-") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            return torch.from_file(
                file.name, shared=True, size=num_bytes // dtype.itemsize, dtype=dtype
            )
    except OSError as error:
        raise ValueError(
            f"{num_bytes / GIB:.1f} GiB of image features do not go to {place} ({error.strerror}); "
            "set policy.feature_folder to a folder with room, raise policy.feature_memory_gib, or "
            "lower training.num_steps_per_rollout or training.num_envs"
        ) from error
