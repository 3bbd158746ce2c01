"""A quiet Ray for command lines: errors and our own warnings, not Ray's remarks to its developers.

Knows Ray's switches; nothing of algorithms. A library must not change another's logging, so only
programs call this.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import sys
import warnings
from pathlib import Path

# Read by the libraries when they are imported or started.
_ENVIRONMENT = {
    # A local cluster without GPUs hides them from workers that ask for none, silently.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
    # TensorBoard's event writer imports TensorFlow where it is installed.
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def quiet() -> None:
    """Set the switches that are read from the environment; call it before Ray is imported."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # It says so if its first look for fonts takes long.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    # Rendering to arrays needs no display, and must not fail without one.
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def quiet_ray() -> None:
    """Let Ray log errors only. It sets its loggers' levels at import, so it is imported here."""
    importlib.import_module("ray.rllib")
    for name in ("ray", "ray.data", "ray.rllib", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Each env runner registers its environment with gymnasium under this one name.
    warnings.filterwarnings("ignore", message=".*Overriding environment rllib-multi-agent-env-v0")


def start_ray(num_cpus: int | None = None) -> None:
    """Start a local Ray, or join the cluster that RAY_ADDRESS names; a running one stays.

    Args:
        num_cpus: CPUs that a local Ray may give away; all cores if None.

    Raises:
        RuntimeError: Ray did not start, as on a machine that is far too busy.
    """
    import ray

    quiet_ray()
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    if address == "local":
        _bring_token()
    try:
        ray.init(
            address=address,
            num_cpus=num_cpus if address == "local" else None,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # Ray raises plain Exceptions here
        raise RuntimeError(f"Ray did not start (address {address!r}): {error}") from error


def _bring_token() -> None:
    """Give a new local Ray a token for this process and its children, where none is configured.

    Ray would write one into the home directory, which may be missing or read-only, and two
    processes that start together would write it together.
    """
    named = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not named and not Path("~/.ray/auth_token").expanduser().is_file():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
