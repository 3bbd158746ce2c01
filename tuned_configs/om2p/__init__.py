"""OM2P's tuned settings, one module per suite."""
