"""Values that are equal though their bytes are not, and the reverse: as the loaded model of transformers has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import built

from tiecheck.api import check

NAMES = {"LlamaForCausalLM": "model.embed_tokens.weight", "GPT2LMHeadModel": "transformer.wte.weight"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("here", "there"), [(0.0, -0.0), (float("nan"), float("nan")), (float("inf"), float("inf")), (0.5, 0.25)]
)
def test_members_are_compared_as_the_loader_does(
    name: str, dtype: torch.dtype, here: float, there: float, tmp_path: Path
) -> None:
    model = built(name).to(dtype)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    head, embedding = tensors[NAMES[name]].clone(), tensors[NAMES[name]].clone()
    head[7, 3], embedding[7, 3] = here, there
    save_file(
        {**tensors, "lm_head.weight": head, NAMES[name]: embedding}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    (report,) = check(str(tmp_path)).targets
    loaded = type(model).from_pretrained(tmp_path)
    tied = loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    said = {view.outcome for view in report.loaders if (view.loader, view.versions) == ("transformers", "5")}
    assert said == {"tied" if tied else "kept-apart"}
    assert (report.status == "pass") == tied
