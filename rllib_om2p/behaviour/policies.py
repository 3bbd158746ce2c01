"""Behaviour policies as files and as functions of observations; knows no training.

A file is safetensors with one metadata entry, "policy": JSON with the environment, the algorithm
and its hyperparameters, the seed, the joint step, the measured return and the weights' hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from rllib_om2p.behaviour.masac_networks import TanhGaussianTeam
from rllib_om2p.behaviour.networks import Actor
from rllib_om2p.disk import local_path, write_whole

# In the repository they lie beside the package, in a wheel inside it.
_FOLDERS = (
    Path(__file__).parent / "policies",
    Path(__file__).parents[2] / "datasets" / "behaviour",
)


# Files of the first recipe do not name their network.
_NETWORKS: Mapping[str | None, type[nn.Module]] = {
    None: Actor,
    "TanhGaussianTeam": TanhGaussianTeam,
}


class Policy(NamedTuple):
    """A trained actor and what its file says about it."""

    actor: Any  # Actor, or TanhGaussianTeam for robots
    metadata: Mapping[str, Any]

    def act(self, obs: NDArray[Any]) -> NDArray[Any]:
        """Return actions (N, agents, action_dim) without noise."""
        with torch.no_grad():
            actions: NDArray[Any] = self.actor(torch.from_numpy(obs)).numpy()
        return actions

    def noisy(self, generator: np.random.Generator) -> Callable[[NDArray[Any]], NDArray[Any]]:
        """Return `act` plus the collection noise drawn from `generator`, clipped to [-1, 1]."""
        scale = np.float32(self.metadata["collection_noise"])

        def act(obs: NDArray[Any]) -> NDArray[Any]:
            actions = self.act(obs)
            noise = generator.standard_normal(actions.shape, dtype=np.float32)
            return np.clip(actions + scale * noise, -1.0, 1.0)

        return act


def path(name: str, folder: str | Path | None = None) -> Path:
    """Return the file of a behaviour policy.

    Args:
        name: "ENV/QUALITY", such as "mpe/simple_spread/medium".
        folder: Where `make_behaviour` wrote; the project's own policies if None.

    Raises:
        ValueError: There is no such file; the text lists those that there are.
    """
    folders = _FOLDERS if folder is None else (local_path(folder),)
    for candidate in folders:
        if (candidate / file_name(name)).is_file():
            return candidate / file_name(name)
    known = sorted(file.stem for folder in folders for file in folder.glob("*.safetensors"))
    raise ValueError(f"No behaviour policy {name!r}; there is {', '.join(known) or 'none'}.")


def file_name(name: str) -> str:
    """Return the file name of the policy "ENV/QUALITY"."""
    return f"{name.replace('/', '-')}.safetensors"


def save_policy(file: Path, actor: nn.Module, metadata: Mapping[str, Any]) -> None:
    """Write the actor's weights, with the metadata and the weights' hash, whole or not at all."""
    tensors = {key: value.detach().contiguous() for key, value in actor.state_dict().items()}
    described = {**metadata, "weights_sha256": weights_hash(actor)}
    data = save(tensors, {"policy": json.dumps(described, sort_keys=True)})
    write_whole(file, lambda opened: opened.write(data))


def load_policy(file: Path) -> Policy:
    """Return the policy of a file.

    Raises:
        ValueError: The weights are not those that the metadata were written for.
    """
    with safe_open(str(file), framework="pt") as opened:
        metadata = json.loads(opened.metadata()["policy"])
        weights = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    actor = _NETWORKS[metadata.get("network_class")](**metadata["network"])
    actor.load_state_dict(weights)
    if weights_hash(actor) != metadata["weights_sha256"]:
        raise ValueError(f"{file} is damaged: its weights do not have the hash it states.")
    return Policy(actor.requires_grad_(False), metadata)


def weights_hash(actor: nn.Module) -> str:
    """Return the sha256 of all weights, by name and in order, independent of the file format."""
    digest = hashlib.sha256()
    for key, value in sorted(actor.state_dict().items()):
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(value.detach().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread: faster for small nets, and the same bits for any machine load."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
