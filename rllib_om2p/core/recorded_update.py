"""An update that is recorded once and replayed: one launch on a GPU instead of hundreds.

Knows `Update` and how a CUDA graph is made, nothing of phases' contents. What is recorded is the
whole update: the draw of the batch, every due phase with its backward pass and its step, and the
targets. The recorder is an argument, so that all but the CUDA graph itself runs anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from rllib_om2p.core.phases import Phase
from rllib_om2p.core.update import Outcome, Update

# Before a recording, the same work runs this often as it is: libraries and optimisers allocate and
# choose their kernels. These are updates like all others.
WARM_UPS = 3


class Recorder(Protocol):
    """Makes recordings."""

    def warm_up(self, work: Callable[[], list[Outcome]]) -> list[Outcome]:
        """Do the work as it will be recorded, without recording it."""
        ...

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return a function that repeats the work and returns its result, always the same tensor.

        The work is not done by recording it.
        """
        ...


class CudaGraphRecorder:
    """Records CUDA graphs.

    Args:
        generator: What the work draws from; each replay goes on in its sequence.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._stream = torch.cuda.Stream(generator.device)

    def warm_up(self, work: Callable[[], list[Outcome]]) -> list[Outcome]:
        """Do the work on the stream that records."""
        current = torch.cuda.current_stream(self._generator.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return the replay of a CUDA graph of the work."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self._generator)
        # Other threads (a table's reader) may use the device meanwhile.
        with (
            torch.cuda.device(self._generator.device),  # which need not be the current one
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay


class _Recording(NamedTuple):
    """A replay, and what the phases gave when it was recorded: the places in its result.

    Attributes:
        replay: Repeats the update; returns all outcomes as one vector.
        outcomes: Of the recorded run.
    """

    replay: Callable[[], Tensor]
    outcomes: list[Outcome]

    def __call__(self) -> list[Outcome]:
        """Repeat the update and return what its phases gave."""
        # A copy: the next replay writes into the same memory.
        parts = iter(
            self.replay().clone().split([part.numel() for o in self.outcomes for part in _parts(o)])
        )
        return [
            Outcome(
                o.phase,
                next(parts).view_as(o.losses),
                {name: next(parts).view_as(value) for name, value in o.metrics.items()},
            )
            for o in self.outcomes
        ]


def _parts(outcome: Outcome) -> list[Tensor]:
    return [outcome.losses, *outcome.metrics.values()]


class RecordedUpdate:
    """Like `Update`, recorded once for every combination of phases that are due together.

    Args:
        update: What to record; its batches must come from tensors that stay in place.
        recorder: Makes the recordings.
    """

    def __init__(self, update: Update, recorder: Recorder) -> None:
        self._update, self._recorder = update, recorder
        self._num_warm_ups: dict[tuple[str, ...], int] = {}
        self._recordings: dict[tuple[str, ...], _Recording] = {}

    def __call__(self, number: int) -> list[Outcome]:
        """Run update `number`, counted from 0, and return what its phases gave."""
        due = self._update.due(number)
        names = tuple(phase.name for phase in due)
        if names not in self._recordings:
            count = self._num_warm_ups.get(names, 0)
            if count < WARM_UPS:
                self._num_warm_ups[names] = count + 1
                return self._recorder.warm_up(lambda: self._update.run(due))
            self._recordings[names] = self._record(due)
        return self._recordings[names]()

    def forget(self) -> None:
        """Begin anew, warm-ups included; for when tensors of the optimisers were replaced."""
        self._num_warm_ups.clear()
        self._recordings.clear()

    def _record(self, due: Sequence[Phase]) -> _Recording:
        outcomes: list[Outcome] = []

        def work() -> Tensor:
            outcomes[:] = self._update.run(due)
            return torch.cat([part.reshape(-1).float() for o in outcomes for part in _parts(o)])

        return _Recording(self._recorder.record(work), outcomes)
