"""Every path below the workspace. ``PANGU_WORKSPACE`` is the only root, set by pod or runtime."""

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from pangu_core.errors import ConfigError

WORKSPACE_VARIABLE: Final = "PANGU_WORKSPACE"


@dataclass(frozen=True)
class RunPaths:
    """Workspace-relative paths of one run, as strings for configs and manifests."""

    name: str

    @property
    def root(self) -> str:
        """The run's folder."""
        return f"runs/{self.name}"

    @property
    def owner(self) -> str:
        """owner.json: the run's uid and the newest attempt of each stage."""
        return f"{self.root}/owner.json"

    @property
    def fetched(self) -> str:
        """Folder of what ``fetch`` brings: model/ and data/."""
        return f"{self.root}/fetched"

    @property
    def tokens(self) -> str:
        """Prefix of the token files that ``preprocess`` writes."""
        return f"{self.root}/data/tokens"

    @property
    def converted(self) -> str:
        """Checkpoint that ``convert`` writes."""
        return f"{self.root}/converted"

    @property
    def split(self) -> str:
        """Sharded checkpoint that ``split`` writes."""
        return f"{self.root}/split"

    @property
    def checkpoints(self) -> str:
        """Folder of training checkpoints with its ``latest`` pointer."""
        return f"{self.root}/checkpoints"

    @property
    def model(self) -> str:
        """The whole checkpoint that ``merge`` writes and that is served."""
        return f"{self.root}/model"

    @property
    def export(self) -> str:
        """Where ``export`` writes unless told otherwise."""
        return f"{self.root}/export"

    @property
    def metrics(self) -> str:
        """JSON lines, one per logged step."""
        return f"{self.root}/metrics.jsonl"

    @property
    def samples(self) -> str:
        """Folder of JSON lines: which samples each rank trained on, where it is asked for."""
        return f"{self.root}/samples"

    @property
    def tensorboard(self) -> str:
        """TensorBoard's event files."""
        return f"{self.root}/tensorboard"

    def stage_marker(self, stage: str) -> str:
        """JSON that says what a finished stage read and wrote."""
        return f"{self.root}/stages/{stage}.json"


def workspace_root() -> Path:
    """The workspace folder of this process.

    Raises:
        ConfigError: the variable is not set or names no folder.
    """
    value = os.environ.get(WORKSPACE_VARIABLE, "")
    if not value or not Path(value).is_dir():
        raise ConfigError(
            WORKSPACE_VARIABLE,
            seen=value or "not set",
            rule="must name the folder that holds corpora, weights and runs",
            fix="set it, or start this command through 'pangu run'",
        )
    return Path(value)


def resolve(path: str) -> Path:
    """An absolute path for a workspace-relative one.

    Raises:
        ConfigError: the path is absolute or climbs out of the workspace.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise ConfigError(
            "workspace path",
            seen=path,
            rule="must be relative to the workspace and stay inside it",
            fix="copy the data into the workspace and name it from there",
        )
    return workspace_root() / pure
