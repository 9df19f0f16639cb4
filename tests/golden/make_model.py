"""Makes model.json: logits of transformers for model directories that we write.

    python make_model.py        (torch 2.15, transformers 5.23; cargo on the path)

Each directory must load without a missing or unexpected key.
"""
import json, os, pathlib, subprocess, tempfile
import torch
from transformers import LlavaForConditionalGeneration

here = pathlib.Path(__file__).parent
with tempfile.TemporaryDirectory() as root:
    command = ["cargo", "test", "--release", "--test", "model_golden", "--", "--ignored", "write_directories"]
    subprocess.run(command, cwd=here.parent.parent, env={**os.environ, "NEVA_GOLDEN_DIR": root}, check=True)
    golden = {}
    for directory in sorted(pathlib.Path(root).iterdir()):
        model, info = LlavaForConditionalGeneration.from_pretrained(
            directory, dtype=torch.float32, output_loading_info=True)
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            assert not info.get(kind), (directory.name, kind, info[kind])
        data = json.loads((directory / "input.json").read_text())
        side = data["side"]
        pixels = torch.tensor(data["pixels"], dtype=torch.float32).reshape(1, 3, side, side)
        ids = torch.tensor([data["ids"]])
        with torch.no_grad():
            logits = model.eval()(input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids)).logits
        golden[directory.name] = [float(f"{v:.7g}") for v in logits[0].flatten().tolist()]
        print(directory.name, "loads whole; largest logit", f"{logits.abs().max():.2f}")
(here / "model.json").write_text(json.dumps(golden) + "\n")
