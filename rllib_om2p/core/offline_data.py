"""RLlib's hook for offline data, filled with our reader.

RLlib's own OfflineData reads single-agent episodes only (offline/offline_prelearner.py:335, 447 in
ray 2.60.0). The learners read their shards themselves; this object is what the driver knows of the
dataset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.rllib.offline.offline_data import OfflineData

from rllib_om2p.data.reader import OfflineDataset

if TYPE_CHECKING:
    from rllib_om2p.core.config import OfflineConfig


class OfflineMultiAgentData(OfflineData):
    """The dataset that an algorithm trains on, as the driver sees it.

    Attributes:
        dataset: The opened dataset; `dataset.to_ray_dataset()` gives its rows.
    """

    def __init__(self, config: OfflineConfig) -> None:  # super() would read single-agent data
        """Open the dataset that `config.input_` names."""
        self.config = config
        self.dataset = OfflineDataset.open(config.input_)
        # Algorithm.setup assigns these (algorithms/algorithm.py:1013-1041).
        self.locality_hints: list[str] | None = None
        self.learner_handles: list[Any] | None = None
        self.module_spec: Any = None
        self.spaces: Any = None

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        """Refuse: joint batches do not pass through the driver."""
        raise TypeError("the learners sample their own tables; iterate `offline_data.dataset`.")
