"""The connector that makes env runners ask the policies in the order of the agents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.rllib.connectors.connector_v2 import ConnectorV2


class InAgentOrder(ConnectorV2):
    """Lists the modules' batches in the order of the agents.

    RLlib lists them in the order of a set (env/multi_agent_episode.py:1847, 2.60.0), another one in
    each process; the policies draw their noise in that order.
    """

    def __init__(self, agent_ids: Sequence[str]) -> None:
        super().__init__()
        self._agent_ids = tuple(agent_ids)

    def __call__(self, *, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the batch with its modules in order."""
        return {agent_id: batch[agent_id] for agent_id in self._agent_ids if agent_id in batch}
