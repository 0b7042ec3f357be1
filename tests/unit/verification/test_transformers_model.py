"""What ends a check, while transformers is at work."""

from dataclasses import replace
from typing import Any

import pytest
from header_models import checkpoint_of

from streamconv.errors import BadCheckpoint, Interrupted
from streamconv.verification import transformers_load, transformers_model

CHECKPOINT = replace(checkpoint_of({}), config={"model_type": "qwen3_moe"})
STEPS: dict[str, Any] = {
    "import_transformers": (transformers_model, "import_module", ()),
    "configuration": (transformers_model, "sealed", (CHECKPOINT,)),
    "model_class": (transformers_model, "_named_class", (CHECKPOINT, None)),
    "build_model": (transformers_model, "_on_meta_device", (CHECKPOINT, BadCheckpoint, None)),
    "_load": (transformers_load, "_load_headers", (CHECKPOINT, None, None, {})),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_signal_is_no_fault_of_the_checkpoint(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the process with its own code, whatever was at work."""
    import transformers

    def interrupted(*args: object) -> None:
        raise Interrupted("terminated", signal=15)

    module, inner, arguments = STEPS[step]
    monkeypatch.setattr(module, inner, interrupted)
    before = () if step == "import_transformers" else (transformers,)
    with pytest.raises(Interrupted):
        getattr(module, step)(*before, *arguments)
