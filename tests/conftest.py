"""For all tests: how long an example of a property test takes says nothing of what it tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("dougong", deadline=None)
settings.load_profile("dougong")
