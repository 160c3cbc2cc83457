"""Falaj: an AI-first cloud region that anyone can run."""

__version__ = "0.1.0"
