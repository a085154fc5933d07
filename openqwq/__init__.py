"""OpenQwQ: the open system that makes and serves a QwQ-like reasoning model."""

__version__ = "0.1.0"
