"""Manifests for the kernel's tests, short to write."""

from __future__ import annotations

from typing import Any

from falaj.region.resource import API_VERSION, Manifest


def manifest(kind: str, name: str, project: str = "", *, labels: dict[str, str] | None = None, **spec: Any) -> Manifest:
    """A manifest as a person would write it."""
    metadata: dict[str, Any] = {"name": name}
    if project:
        metadata["project"] = project
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def project(name: str, **spec: Any) -> Manifest:
    """A project."""
    return manifest("Project", name, **spec)


def bucket(name: str, project: str = "p", **spec: Any) -> Manifest:
    """A bucket."""
    return manifest("Bucket", name, project, **spec)


def knowledge_base(name: str, *buckets: str, project: str = "p", **spec: Any) -> Manifest:
    """A knowledge base over buckets."""
    return manifest("KnowledgeBase", name, project, sources=[{"bucket": b} for b in buckets], **spec)


def agent(name: str, *knowledge: str, project: str = "p", **spec: Any) -> Manifest:
    """An agent over knowledge bases."""
    return manifest("Agent", name, project, endpoint="system/chat", knowledge=list(knowledge), **spec)
