"""Coarser meshes to draw: what render_quality=lite shows in place of robosuite's.

Vertices in the same cell of a grid become one, at their mean (Rossignac and Borrel 1993). Edges in
the way of other methods, open ones and ones of three faces, do not matter here, and robosuite's
robots have many. It takes half a second for 350,000 faces, less than making an environment: nothing
is cached.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

CELL_M = 0.025
"""Edge of a cell: a 200th of the width of a picture 2.5 m away, about a pixel of 224."""
_CELLS = 3
"""Cells along a mesh's longest side, at least: screws and buttons of robots have many faces."""
_SMOOTH = 0.7
"""Cosine of the angle between a face and a corner's normal above which the corner is round."""


def coarse_model(model: Any) -> Any:
    """Return a copy of a MuJoCo model whose meshes are coarse; for a MjrContext alone.

    Geoms, bodies and all that the physics reads stay as they are; textures of meshes are lost.
    """
    coarse = copy.copy(model)
    for mesh in range(model.nmesh):
        faces = _part(model, mesh, "face").astype(np.int64)
        vertices = _part(model, mesh, "vert")
        longest = float(np.ptp(vertices, axis=0).max())
        merged, kept = merge(vertices, faces, min(CELL_M, longest / _CELLS))
        if not 4 <= len(kept) < len(faces):
            continue
        normals, corners = shade(merged, kept)
        if len(normals) > len(_part(model, mesh, "normal")):  # there is no room for edges
            normals, corners = normals[: len(merged)], kept
        _put(coarse, mesh, "vert", merged)
        _put(coarse, mesh, "normal", normals)
        _put(coarse, mesh, "face", kept)
        address = int(model.mesh_faceadr[mesh])
        coarse.mesh_facenormal[address : address + len(kept)] = corners
        coarse.mesh_texcoordadr[mesh] = -1
    return coarse


def merge(vertices: Floats, faces: Indices, cell_m: float) -> tuple[Floats, Indices]:
    """Merge the vertices of each cell; returns them [W, 3], and the faces that are left [G, 3].

    Args:
        vertices: [V, 3] in m.
        faces: [F, 3], vertices in the order that shows their front.
        cell_m: edge of a cell.
    """
    cells = np.floor((vertices - vertices.min(axis=0)) / cell_m).astype(np.int64)
    width = int(cells.max()) + 1
    numbers = (cells[:, 0] * width + cells[:, 1]) * width + cells[:, 2]
    _, inverse = cast(tuple[Indices, Indices], np.unique(numbers, return_inverse=True))
    sizes = np.bincount(inverse)
    merged = np.stack([np.bincount(inverse, column) / sizes for column in vertices.T], axis=1)
    corners = inverse[faces]
    is_face = (np.diff(np.sort(corners, axis=1), axis=1) > 0).all(axis=1)
    corners = corners[is_face]
    first = cast(
        Indices, corners.argmin(axis=1)[:, None]
    )  # the same face, wherever it begins, once
    order = cast(Indices, (first + np.arange(3)) % 3)
    corners = np.take_along_axis(corners, order, axis=1)
    return merged.astype(np.float32), np.unique(corners, axis=0)


def shade(vertices: Floats, faces: Indices) -> tuple[Floats, Indices]:
    """Normals, and which one each corner of the faces [F, 3] has.

    The first [V] are means of the faces around a vertex, weighted by area; the others [F] are those
    of the faces themselves, for corners at an edge.
    """
    corners: Floats = vertices[faces]
    flat: Floats = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    around = np.zeros_like(vertices)
    for corner in range(3):
        np.add.at(around, faces[:, corner], flat)
    flat, around = _unit(flat), _unit(around)
    is_edge = (around[faces] * flat[:, None]).sum(axis=-1) < _SMOOTH
    own = len(vertices) + np.arange(len(faces))[:, None]
    return np.concatenate([around, flat]), np.where(is_edge, own, faces)


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


def _part(model: Any, mesh: int, name: str) -> Any:
    address, number = (int(getattr(model, f"mesh_{name}{part}")[mesh]) for part in ("adr", "num"))
    return getattr(model, f"mesh_{name}")[address : address + number]


def _put(model: Any, mesh: int, name: str, values: NDArray[Any]) -> None:
    address = int(getattr(model, f"mesh_{name}adr")[mesh])
    getattr(model, f"mesh_{name}")[address : address + len(values)] = values
    getattr(model, f"mesh_{name}num")[mesh] = len(values)
