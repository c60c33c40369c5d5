"""Contacts of a capsule with a plane, in the frames that MuJoCo in C gives them.

A pyramidal friction cone depends on the two tangents of the contact's frame, an elliptic one does not. Both simulators
lay the first tangent along the capsule's axis, projected into the plane. MuJoCo Warp 4.0 does so only where the
projection is longer than a half, that is, where the capsule leans by less than 60° from the plane; in C that question
is asked of the axis itself, so the answer is always yes. Legs are steep: without this module Ant-v5 and Humanoid-v5
move differently from their first contact on; with it they are equal to single precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import warp as wp
from mujoco_warp._src import collision_driver

_PLANE, _CAPSULE = wp.constant(0), wp.constant(3)  # mjtGeom
_FLAT = wp.constant(1e-6)  # an axis along the normal has no projection: then x, as mju_normalize3 gives it


@wp.kernel
def _align(
    geom_type: wp.array(dtype=int),
    geom_xmat: wp.array2d(dtype=wp.mat33),
    count: wp.array(dtype=int),
    geom: wp.array(dtype=wp.vec2i),
    world: wp.array(dtype=int),
    frame: wp.array(dtype=wp.mat33),
) -> None:
    i = wp.tid()
    if i >= count[0]:
        return
    pair = geom[i]
    if geom_type[pair[0]] != _PLANE or geom_type[pair[1]] != _CAPSULE:
        return
    own, turned = frame[i], geom_xmat[world[i], pair[1]]
    normal = wp.vec3(own[0, 0], own[0, 1], own[0, 2])
    axis = wp.vec3(turned[0, 2], turned[1, 2], turned[2, 2])
    first = axis - normal * wp.dot(normal, axis)
    if wp.length(first) < _FLAT:
        first = wp.vec3(1.0, 0.0, 0.0)
    first = wp.normalize(first)
    second = wp.cross(normal, first)
    frame[i] = wp.matrix_from_rows(normal, first, second)


@contextmanager
def frames_as_in_c() -> Iterator[None]:
    """Within it, all that MuJoCo Warp finds to collide has the frames of MuJoCo in C; it belongs around a capture."""
    found = collision_driver.collision

    def collision(model: Any, data: Any, **keywords: Any) -> None:
        found(model, data, **keywords)
        contacts = data.contact
        read = [model.geom_type, data.geom_xmat, data.nacon, contacts.geom, contacts.worldid]
        wp.launch(_align, dim=data.naconmax, inputs=read, outputs=[contacts.frame], device=contacts.frame.device)

    collision_driver.collision = collision
    try:
        yield
    finally:
        collision_driver.collision = found
