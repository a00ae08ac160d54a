"""Losses and gradient norms of a few training steps, by PyTorch and transformers: tests/data/train/steps.json.

    python scripts/generate/training_golden.py        (torch, transformers; a few seconds)

One document, so that there is one order of the tokens whatever the shuffle. Sequence g holds its tokens
[g S, g S + S], going on from its start when it ends; a step takes the next B sequences. float64.
"""

import json
import pathlib

import torch
from transformers import OPTForCausalLM

DATA = pathlib.Path(__file__).resolve().parents[2] / "tests" / "data"
MODEL = "opt/models/tiny-preln/safetensors-f32"
SETTINGS = {
    "steps": 8, "sequence_length": 24, "batch_sequences": 5, "learning_rate": 1e-3, "warmup_steps": 2,
    "final_learning_rate": 0.1, "weight_decay": 0.05, "clip_norm": 1.0, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-6,
}


def learning_rate(step):
    s = SETTINGS
    if step <= s["warmup_steps"]:
        return s["learning_rate"] * step / s["warmup_steps"]
    left = (s["steps"] - step) / (s["steps"] - s["warmup_steps"])
    return s["learning_rate"] * (s["final_learning_rate"] + (1 - s["final_learning_rate"]) * left)


def main():
    s = SETTINGS
    document = [4 + (i * i * 7 + i * 31) % 500 for i in range(700)]
    model = OPTForCausalLM.from_pretrained(DATA / MODEL, torch_dtype=torch.float64)
    model.double().eval()  # eval: no dropout
    decayed = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": s["weight_decay"]}, {"params": rest, "weight_decay": 0.0}],
        betas=(s["beta1"], s["beta2"]), eps=s["epsilon"])
    losses, norms, rates = [], [], []
    for step in range(1, s["steps"] + 1):
        first = (step - 1) * s["batch_sequences"]
        rows = [[document[(g * s["sequence_length"] + i) % len(document)] for i in range(s["sequence_length"] + 1)]
                for g in range(first, first + s["batch_sequences"])]
        ids = torch.tensor(rows)
        logits = model(ids[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), s["clip_norm"])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        norms.append(norm.item())
        rates.append(learning_rate(step))
    golden = {"model": MODEL, "document": document, "settings": s, "loss": losses, "gradient_norm": norms,
              "learning_rate": rates}
    (DATA / "train").mkdir(exist_ok=True)
    (DATA / "train" / "steps.json").write_text(json.dumps(golden) + "\n")
    print(losses, norms)


main()
