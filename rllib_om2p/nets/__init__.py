"""Networks built from dimensions; every parameter has a leading axis over stacked agents."""
