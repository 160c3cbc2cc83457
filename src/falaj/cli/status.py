"""``falaj status``: the region at a glance, also when it is down or only a part of it is up."""

from __future__ import annotations
