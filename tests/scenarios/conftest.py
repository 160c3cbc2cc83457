"""Fixtures of rooms that scenarios need as well."""

from tests.services.knowledge.conftest import e5, library

__all__ = ["e5", "library"]
