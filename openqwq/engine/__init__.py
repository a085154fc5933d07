"""Continuous-batching inference."""
