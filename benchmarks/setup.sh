#!/usr/bin/env bash
# Makes the environments of what dougong is measured against; dougong itself stays in .venv, which `make` makes.
#
#     make .venv/.installed-dev && benchmarks/setup.sh
#
# benchmarks/.venv holds all peers but litgpt: its 0.5.13 asks for another huggingface-hub than transformers 5.23, so that pip
# goes back to litgpt 0.5.9 and with it to numpy 1.26, beside which pyarrow 26 does not import. It has
# benchmarks/.venv-litgpt to itself. The versions stand in every result.
#
# torch is the Makefile's, on the same line as all that needs it, or pip may take another release or another build; and it
# must be the very torch of .venv, or two torches would be compared. Another one: the same TORCH=… for `make` and for this.
# No torchvision, no torchaudio: beside the CPU build their import fails, and breaks transformers with it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OURS=.venv/bin/python
TORCH=${TORCH:-$(sed -n 's/^TORCH ?= *//p' Makefile)}
IMPORTED='import sys; module = __import__(sys.argv[1]); print(f"{sys.argv[1]:14}", getattr(module, "__version__", ""))'
BUILD='import torch; print(torch.__version__)'

[ -x "$OURS" ] || { echo "there is no .venv to compare with. Fix: make .venv/.installed-dev"; exit 2; }

environment() { # FOLDER PACKAGE…: torch and the packages on one line; each is imported once
    local python=$1/bin/python
    shift
    [ -x "$python" ] || "$OURS" -m venv "$(dirname "$(dirname "$python")")"
    "$python" -m pip install --disable-pip-version-check "$TORCH" "$@"
    for module in torch "$@"; do "$python" -c "$IMPORTED" "$module"; done
    local ours theirs
    ours=$("$OURS" -c "$BUILD") theirs=$("$python" -c "$BUILD")
    [ "$ours" = "$theirs" ] || { echo "$python has torch $theirs, .venv has $ours. Fix: the same TORCH=… for both"; exit 2; }
}

environment benchmarks/.venv transformers accelerate datasets lightning sentencepiece tokenizers
# implicit, what recommendation is compared with, needs no torch and has numpy and scipy to itself: benchmarks/recommendation_baseline.py.
recommenders() { # PYTHON
    [ -x "$1" ] || "$OURS" -m venv "$(dirname "$(dirname "$1")")"
    "$1" -m pip install --disable-pip-version-check --only-binary=:all: "implicit>=0.7.2,<0.8"
    "$1" -c "$IMPORTED" implicit
}

recommenders benchmarks/.venv-implicit/bin/python
environment benchmarks/.venv-litgpt litgpt requests # which its pretraining script imports without asking for it
