"""dougong: say what goes in and what comes out, and train, evaluate and use the model.

    import dougong
    run = dougong.train("recipe.yaml")
    dougong.evaluate(run)
    run.predict(["a text"])

Every verb of the command line is a function here, with the same name and arguments. Nothing heavy is imported until one is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "check", "compare", "doctor", "evaluate", "generate", "load", "new",
    "predict", "prepare", "report", "schema", "train", "verify",
]  # fmt: skip
__version__ = "0.1.0"

if TYPE_CHECKING:
    from dougong.lifecycle import (
        check,
        compare,
        doctor,
        evaluate,
        generate,
        load,
        new,
        predict,
        prepare,
        report,
        schema,
        train,
        verify,
    )


def __getattr__(name: str) -> Any:
    if name in __all__:
        from dougong import lifecycle

        return getattr(lifecycle, name)
    raise AttributeError(f"dougong has no {name!r}; it has {', '.join(__all__)}")
