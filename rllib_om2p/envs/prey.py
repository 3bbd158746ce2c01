"""The frozen prey of Predator-Prey and World: files, the forward pass; must not know simulators.

A prey is a policy (obs) -> 64 ReLU -> 64 ReLU -> tanh, computed in NumPy. Two formats are read:

- our own: safetensors with fc1, fc2, fc3 (weight, bias) and one metadata entry, "prey": JSON;
- the papers' checkpoint as OG-MARL publishes it: a PyTorch file whose `agent_params[-1]["policy"]`
  holds the same and `in_fn`, a batch normalisation that is applied with its running statistics.
  It is read without executing code from it.

Axes: (worlds, features).
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rllib_om2p.disk import file_sha256, local_path, write_whole

Array = NDArray[Any]

PreyFn = Callable[[Array], Array]
"""Maps the prey's observations (N, obs_dim) to its actions (N, 2) in [-1, 1]."""

PREY = "prey"
"""Name of the prey among the agents of a world."""

PREY_AS_AGENT = "agent"
"""In the place of a source: nobody moves the prey, it is an agent like the predators."""

PreySource = str | os.PathLike[str] | Mapping[str, str] | PreyFn | None
"""A file, a function, what a card says of a file (`cite_prey`), `PREY_AS_AGENT`, or None for the
project's own policy."""

PREY_OBS_DIMS: Mapping[str, int] = {"mpe/simple_tag": 14, "mpe/simple_world": 22}
"""Length of the prey's observation in each environment that has one."""

_PUBLISHED_SHA256: Mapping[str, str] = {
    "mpe/simple_tag": "b22b95f3397f41a21aa247810e385a8ecf85294f2e2ed8e523a954c633daf7a2",
    "mpe/simple_world": "ed3170cfb9c3f6872305c9c795a7aed089fde7b5e5cc2bff5f7debfed37c2115",
}
_FOLDER = Path(__file__).parent / "prey_policies"
_LAYERS = ("fc1", "fc2", "fc3")
_NORMALISATION = {f"in_fn.{name}" for name in ("weight", "bias", "running_mean", "running_var")}
_NUM_ACTIONS = 2
# PyTorch's default, which the checkpoints do not store.
_BATCH_NORM_EPSILON = 1e-5


class PreyPolicy:
    """A prey read from a file.

    Attributes:
        source: The name of the file.
        sha256: Of the file.
        metadata: What the file says about its origin; {} for the papers' checkpoint.
    """

    def __init__(
        self, state: Mapping[str, Array], *, source: str, sha256: str, metadata: Mapping[str, Any]
    ) -> None:
        """Take the weights of a state dict, fc1 to fc3 and perhaps in_fn."""
        self.source, self.sha256, self.metadata = source, sha256, metadata
        weights = {name: np.asarray(value, np.float64) for name, value in state.items()}
        self._layers = [
            (weights[f"{name}.weight"].T.copy(), weights[f"{name}.bias"]) for name in _LAYERS
        ]
        if "in_fn.weight" in weights:
            # y = s (x - mean) + b is a part of the first layer.
            scale = weights["in_fn.weight"] / np.sqrt(
                weights["in_fn.running_var"] + _BATCH_NORM_EPSILON
            )
            shift = weights["in_fn.bias"] - scale * weights["in_fn.running_mean"]
            matrix, bias = self._layers[0]
            self._layers[0] = (scale[:, None] * matrix, shift @ matrix + bias)

    def __call__(self, obs: Array) -> Array:
        """Return actions (N, 2) in float64 of observations (N, obs_dim)."""
        hidden = np.asarray(obs, np.float64)
        for matrix, bias in self._layers[:-1]:
            hidden = np.maximum(hidden @ matrix + bias, 0.0)
        matrix, bias = self._layers[-1]
        return np.tanh(hidden @ matrix + bias)


def load_prey(env: str, source: PreySource = None) -> PreyFn | None:
    """Return who moves the prey of an environment, None if it has none or the prey is an agent.

    Args:
        env: A registered name.
        source: A file of either format, a function that is used as it is, `PREY_AS_AGENT`, or None
            for the project's own policy. What `cite_prey` returned stands for its file, once a
            "file" is added, and for the project's own policy if that is the one.

    Raises:
        ValueError: A prey is given to an environment without one, there is no such file, it holds
            something else or another prey than the one that is cited, its policy is of another
            architecture or observation size, or the file of a citation is missing.
    """
    if env not in PREY_OBS_DIMS:
        if source is not None:
            raise ValueError(
                f"{env} has no prey, got prey={source!r}; leave it out. Environments with a prey: "
                f"{', '.join(PREY_OBS_DIMS)}."
            )
        return None
    if callable(source) or source == PREY_AS_AGENT:
        return source if callable(source) else None
    if isinstance(source, Mapping):
        return _load_cited(env, source)
    file = own_prey_file(env) if source is None else local_path(source)
    if not file.is_file():
        raise ValueError(f"There is no prey file {str(file)!r} for {env}.")
    state, metadata = _read_own(file) if file.suffix == ".safetensors" else _read_published(file)
    _check_layout(env, file, {name: np.shape(value) for name, value in state.items()})
    return PreyPolicy(state, source=file.name, sha256=file_sha256(file), metadata=metadata)


def _load_cited(env: str, cited: Mapping[str, str]) -> PreyPolicy:
    own, sha256 = own_prey_file(env), cited["sha256"]
    if "file" not in cited and file_sha256(own) != sha256:
        raise ValueError(
            f"the data were made with the prey of {cited['source']} (sha256 {sha256[:12]}...), "
            "which is not part of this package; say where that file lies: --prey FILE, or "
            'prey=FILE in the settings of the environment (env_config={"prey": FILE} in RLlib).'
        )
    prey = load_prey(env, cited.get("file", own))
    assert isinstance(prey, PreyPolicy)
    if prey.sha256 != sha256:
        raise ValueError(
            f"{cited['file']} is not the prey of the data, {cited['source']}: expected sha256 "
            f"{sha256[:12]}..., got {prey.sha256[:12]}...."
        )
    return prey


def cite_prey(env: str, source: PreySource) -> dict[str, str]:
    """Return what a card keeps of a prey's file: its name and hash, never the folder.

    Raises:
        ValueError: The prey is no file, or one that does not fit (see `load_prey`).
    """
    prey = load_prey(env, source)
    if not isinstance(prey, PreyPolicy):
        raise ValueError(
            f"a dataset's prey must be a file, which others can be given, got prey={source!r}; "
            "save_prey writes one."
        )
    return {"source": prey.source, "sha256": prey.sha256}


def is_reference_prey(env: str, source: PreySource) -> bool:
    """Return whether the papers' returns are a scale for who hunts this prey.

    They are for the papers' prey and for the project's own, which is of equal strength.
    """
    if source is None:
        return True
    if callable(source) or source == PREY_AS_AGENT:
        return False
    if isinstance(source, Mapping):
        sha256 = source.get("sha256")
    else:
        file = local_path(source)
        sha256 = file_sha256(file) if file.is_file() else None
    return sha256 in (_PUBLISHED_SHA256[env], file_sha256(own_prey_file(env)))


def describe_prey(prey: PreyFn) -> dict[str, Any]:
    """Return what a dataset card says about a prey: the file's name, hash and metadata."""
    if isinstance(prey, PreyPolicy):
        return {"source": prey.source, "sha256": prey.sha256, **prey.metadata}
    return {"source": f"function {getattr(prey, '__qualname__', type(prey).__qualname__)}"}


def own_prey_file(env: str, folder: str | Path | None = None) -> Path:
    """Return where the project's own prey of an environment lies, or lies in another folder."""
    return local_path(folder or _FOLDER) / f"{env.replace('/', '-')}.safetensors"


def save_prey(file: Path, state: Mapping[str, Array], metadata: Mapping[str, Any]) -> None:
    """Write a prey in our own format, whole or not at all."""
    tensors = {name: np.ascontiguousarray(value, np.float32) for name, value in state.items()}
    data = save(tensors, {"prey": json.dumps(metadata, sort_keys=True)})
    write_whole(file, lambda opened: opened.write(data))


def _read_own(file: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    try:
        with safe_open(str(file), framework="numpy") as opened:
            metadata = json.loads((opened.metadata() or {}).get("prey", "{}"))
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file: {error}.") from error
    return state, metadata


def _read_published(file: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    import torch

    try:
        checkpoint = torch.load(file, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{file} is no PyTorch checkpoint that can be read without executing code from it "
            f"({type(error).__name__}: {reason}); a prey is a .safetensors file of this project or "
            "the checkpoint that OG-MARL publishes."
        ) from error
    try:
        policy = checkpoint["agent_params"][-1]["policy"]
        state = {name: value.detach().numpy() for name, value in policy.items()}
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        held = [*checkpoint] if isinstance(checkpoint, dict) else type(checkpoint).__name__
        raise ValueError(
            f'{file} must hold a policy under agent_params[-1]["policy"], as the checkpoint that '
            f"OG-MARL publishes; it holds {held}."
        ) from error
    state.pop("in_fn.num_batches_tracked", None)
    return state, {}


def _check_layout(env: str, file: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    layers = {f"{layer}.{kind}" for layer in _LAYERS for kind in ("weight", "bias")}
    if set(shapes) not in (layers, layers | _NORMALISATION):
        raise ValueError(
            f"{file} holds a prey of another architecture: expected {sorted(layers)}, with or "
            f"without {sorted(_NORMALISATION)}, got {sorted(shapes)}."
        )
    expected_obs = PREY_OBS_DIMS[env]
    obs_dim = shapes["fc1.weight"][-1] if len(shapes["fc1.weight"]) == 2 else None
    if obs_dim != expected_obs:
        raise ValueError(
            f"{file} holds a prey for observations of {obs_dim} numbers, {env} gives "
            f"{expected_obs}; take the file of this environment."
        )
    first, second = shapes["fc1.weight"][0], shapes["fc2.weight"][0]
    expected = {
        **dict.fromkeys(_NORMALISATION & set(shapes), (expected_obs,)),
        **{"fc1.weight": (first, expected_obs), "fc1.bias": (first,)},
        **{"fc2.weight": (second, first), "fc2.bias": (second,)},
        **{"fc3.weight": (_NUM_ACTIONS, second), "fc3.bias": (_NUM_ACTIONS,)},
    }
    wrong = {name: shape for name, shape in shapes.items() if shape != expected[name]}
    if wrong:
        raise ValueError(
            f"{file} holds a prey of another architecture: expected "
            f"{ {name: expected[name] for name in wrong} }, got {wrong}."
        )
