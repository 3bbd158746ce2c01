"""Recorded team episodes: the Parquet contract, its writer, reader and audit."""
