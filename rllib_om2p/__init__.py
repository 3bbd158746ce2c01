"""Offline multi-agent reinforcement learning for Ray RLlib with one-step mean-flow policies."""
