"""Rows and files: the one place that reads row files and writes files whole or not at all."""
