"""Shape checks for places where broadcasting would silently give a wrong result.

They look at shapes only, never at values, so they cost nothing on a device or under torch.compile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def check_same(**tensors: Tensor) -> None:
    """Raise ValueError unless all tensors have the shape of the first one."""
    (first_name, first), *others = tensors.items()
    for name, tensor in others:
        if tensor.shape != first.shape:
            raise ValueError(
                f"{name} must be {tuple(first.shape)} as {first_name}, got {tuple(tensor.shape)}."
            )


def check_times(like: Tensor, **times: Tensor) -> None:
    """Raise ValueError unless every time is `like` with a trailing axis of size 1."""
    expected = (*like.shape[:-1], 1)
    names = " and ".join(times)
    for time in times.values():
        if tuple(time.shape) != expected:
            remedy = "; add trailing axes" if time.ndim < like.ndim else ""
            raise ValueError(f"{names} must be {expected}, got {tuple(time.shape)}{remedy}.")


def check_stacked(name: str, tensor: Tensor, num_stacks: int, dim: int) -> None:
    """Raise ValueError unless the tensor is (num_stacks, batch, dim)."""
    if tensor.ndim != 3 or tensor.shape[0] != num_stacks or tensor.shape[2] != dim:
        raise ValueError(f"{name} must be ({num_stacks}, batch, {dim}), got {tuple(tensor.shape)}.")
