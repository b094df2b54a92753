"""What a checkpoint's folder holds, for those who write it and those who read it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

from dougong.core.errors import ArtefactError

KIND = "checkpoint"
STATE = "state.json"
TENSORS = "tensors.json"
STEP = re.compile(r"step-(\d{8,12})")  # the folder's name
RANK_FILE = re.compile(r"rank-\d{4,6}\.safetensors")


def refuse(path: Path, damage: str, fix: str = "use the checkpoint before it") -> NoReturn:
    raise ArtefactError(f"{path}: {damage}. Fix: {fix}.")
