"""OM2P's tuned configs, one suite of environments per module."""

from __future__ import annotations

from types import ModuleType

from tuned_configs.om2p import mamujoco, mpe

SUITES = (mpe, mamujoco)


def suite(env: str | None) -> ModuleType:
    """Return the module whose `SETTINGS` name an environment.

    Raises:
        ValueError: None does.
    """
    for module in SUITES:
        if env in module.SETTINGS:
            return module
    known = [name for module in SUITES for name in module.SETTINGS]
    raise ValueError(f"There are no tuned settings for {env!r}; there are for {known}.")
