from __future__ import annotations

import subprocess
import sys


def said(script: str) -> str:
    """What a process says in which torch is stood in for."""
    start = "from dougong.core import torchless\ntorchless.install()\n"
    done = subprocess.run([sys.executable, "-c", start + script], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_every_field_and_backbone_and_verb_can_be_read_without_torch() -> None:
    script = """
import sys
from dougong import backbones, fields, lifecycle, recipe
for name in fields.names():
    fields.load(name)
for name in backbones.names():
    backbones.load(name)
print(len(recipe.schema()["$defs"]) > 10, hasattr(sys.modules["torch"], "__file__"))
"""
    assert said(script) == "True False\n"


def test_what_needs_torch_says_so() -> None:
    told = said("import torch\ntorch.zeros(3)")
    assert "of torch was asked for in a process that prepares data" in told
    assert "a Codec computes with numpy" in told
    script = "from torch import nn\nclass Head(nn.Module): pass\nprint(hasattr(Head, 'LOSSES'))\nHead(1)"
    assert said(script).startswith("False\n")
    assert "Head of torch was asked for" in said(script)
    assert "was asked for" in said("import torch\nfor _ in torch.nn: pass")


def test_a_process_that_has_torch_keeps_it() -> None:
    script = "import torch\nfrom dougong.core import torchless\ntorchless.install()\nprint(torch.zeros(2).sum().item())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "0.0\n"
