"""The RLlib seam that all algorithms share: config, algorithm, learner, table, groups, module."""
