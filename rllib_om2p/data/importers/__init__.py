"""Imports public datasets of team episodes into the contract; one file per format.

`stream.import_dataset` is the entrance. Formats are imported by name, when they are asked for, so
that their packages may be missing.
"""
