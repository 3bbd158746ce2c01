"""Who made a number: command, commit, machine, versions; no names of hosts, users or folders."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

_PACKAGES = (
    "rllib-om2p",
    "ray",
    "torch",
    "numpy",
    "scipy",
    "pyarrow",
    "gymnasium",
    "pettingzoo",
    "mpe2",
)


def provenance(
    command: str | Sequence[str] | None = None, *, outputs: Sequence[Path] = ()
) -> dict[str, object]:
    """Return what someone needs to make a result again; plain values that json can write.

    Keys: command, commit (None outside a git checkout), dirty (tracked files differ from the
    commit), date (UTC), machine (cpu, cores, memory_gib, gpus), python, packages.

    Args:
        command: What was run, as text or as arguments; this process's own command by default.
        outputs: Files and folders that the command writes: that they differ from the commit says
            nothing about what made the result.
    """
    commit, dirty = _commit(outputs)
    if command is None:
        command = _own_command()
    return {
        "command": command if isinstance(command, str) else shlex.join(command),
        "commit": commit,
        "dirty": dirty,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "python": platform.python_version(),
        "packages": versions(_PACKAGES),
    }


def machine() -> dict[str, object]:
    """Return CPU model, cores this process may use, memory and the GPUs that torch has seen."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),  # of this process, not of the machine
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpus(),
    }


def describe_machine(facts: dict[str, object]) -> str:
    """Return `machine()` as one line."""
    gpus = facts.get("gpus")
    extra = ", " + ", ".join(map(str, gpus)) if isinstance(gpus, list) and gpus else ""
    return f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB{extra}"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    found = {}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _own_command() -> list[str]:
    """Return this process's command with the folders of this machine taken out."""
    # orig_argv, unlike argv, still holds `-m package.module`.
    interpreter, *arguments = sys.orig_argv
    if arguments and Path(arguments[0]).parent == Path(interpreter).parent:
        return [Path(arguments[0]).name, *map(_relative, arguments[1:])]  # a console script
    return ["python", *map(_relative, arguments)]


def _relative(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if equals and Path(value).is_absolute():  # --data=/folder, and --set input_=/folder
        return f"{name}={_relative(value)}"
    path = Path(argument)
    if not path.is_absolute():
        return argument
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


def _commit(outputs: Sequence[Path]) -> tuple[str | None, bool | None]:
    here = Path(__file__)
    # A wheel in some other project's checkout must not borrow that project's commit.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None, None
    top = Path(_git(here.parent, "rev-parse", "--show-toplevel") or ".")
    inside = [path.resolve() for path in outputs if path.resolve().is_relative_to(top.resolve())]
    leave_out = [f":(exclude){path}" for path in inside]
    status = _git(
        here.parent, "status", "--porcelain", "--untracked-files=no", "--", ":/", *leave_out
    )
    return _git(here.parent, "rev-parse", "HEAD"), None if status is None else bool(status)


def _git(directory: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=directory, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    # Asking torch only where it is loaded keeps this module free of it.
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
