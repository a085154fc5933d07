"""Simulated back ends of BFCL's eight multi-turn APIs, written from their function documents.

Each is a class whose `_name` method is the documented function `name`: that document is its
description. Public attributes are its state, which BFCL compares.
"""
