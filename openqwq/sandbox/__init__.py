"""Isolated execution of hostile programs."""
