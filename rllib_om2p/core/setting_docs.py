"""What every setting means, read out of the docstrings of a config and its bases."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from rllib_om2p.core.settings import own_settings, setting_methods

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rllib_om2p.core.config import OfflineConfig

_ENTRY = re.compile(r"    (\*{0,2}\w+): (.*)")


RLLIBS = ("lr", "gamma", "train_batch_size", "grad_clip")
"""Hyperparameters of `AlgorithmConfig.training` that count here too."""


class SettingDoc(NamedTuple):
    """One setting of an algorithm.

    Attributes:
        name: As in `training(NAME=...)` and `--set NAME=...`.
        method: Of the config that sets it.
        default: Its value if nobody sets it.
        text: What it means, in one line.
    """

    name: str
    method: str
    default: Any
    text: str


def setting_docs(config_class: type[OfflineConfig]) -> list[SettingDoc]:
    """Return the hyperparameters that are not RLlib's own, the algorithm's before the common ones.

    Args:
        config_class: Of the algorithm.
    """
    fresh = config_class()
    homes = setting_methods(fresh)
    texts: dict[str, str] = {}
    for cls in config_class.__mro__:
        for method in dict.fromkeys(homes.values()):
            own = _arguments(inspect.cleandoc(getattr(vars(cls).get(method), "__doc__", "") or ""))
            texts = {**own, **texts}
    return [
        SettingDoc(name, homes[name], getattr(fresh, name), texts.get(name, ""))
        for name in own_settings(fresh)
    ]


def _arguments(docstring: str) -> Mapping[str, str]:
    """Return the texts of a docstring's arguments by name."""
    found: dict[str, list[str]] = {}
    _, _, section = docstring.partition("\nArgs:\n")
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        entry = _ENTRY.fullmatch(line)
        if entry:
            found[entry[1]] = [entry[2]]
        elif found:
            found[next(reversed(found))].append(line.strip())
    return {name: " ".join(lines).strip() for name, lines in found.items()}
