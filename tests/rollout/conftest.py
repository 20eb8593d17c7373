"""Fixtures of the rollout's tests."""

from ..graders.host.conftest import serve as serve
