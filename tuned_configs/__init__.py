"""Tuned settings, one folder per algorithm, and the script that compares them."""
