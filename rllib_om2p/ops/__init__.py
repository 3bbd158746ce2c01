"""Pure tensor maths of the algorithms: no networks, no randomness, no Ray."""
