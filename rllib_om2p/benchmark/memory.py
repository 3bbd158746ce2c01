"""Peak memory of this process and its GPU, measured from a moment of one's choice (Linux)."""

from __future__ import annotations

from pathlib import Path

_KIB_PER_MIB = 1024
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): "reset the peak resident set size to the current value"


def resident_mib() -> float:
    """Return what the process holds in memory now, in MiB."""
    return _status("VmRSS")


def peak_mib() -> float:
    """Return the most that the process held since `reset_peaks`, in MiB."""
    return _status("VmHWM")


def gpu_peak_mib() -> float:
    """Return the most that torch held on the GPU since `reset_peaks`, in MiB; 0 without one."""
    import torch  # here, so that measuring a process does not load it

    return torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0


def reset_peaks() -> None:
    """Let the peaks count from now."""
    import torch

    _CLEAR_REFS.write_text(_RESET_PEAK)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _status(field: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / _KIB_PER_MIB
    raise RuntimeError(f"{_STATUS} has no line {field}.")
