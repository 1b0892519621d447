"""What the build of a wheel does besides: the workflow's files go in, at the places that pyproject.toml names."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class WorkflowHook(BuildHookInterface[Any]):
    """Puts the files in; not into an editable install, which uses those of the checkout."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the build; `version` is `standard` or `editable`."""
        if version != "editable":
            build_data["force_include"] |= self.config["files"]
