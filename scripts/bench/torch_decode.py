"""PyTorch's side of scripts/bench/decode: one token at a time with a key-value cache, as one would write it.

Speaks the worker protocol of measuring.py. bfloat16 means bfloat16 weights and activations (model.bfloat16()).
"""

import argparse
import json
import sys
import time

import torch
import torch.nn.functional as F

from torch_opt import Opt
from torch_process import peak_resident_bytes, synchronizer


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sequence", type=int, required=True)
    parser.add_argument("--micro-batch", type=int, required=True)
    parser.add_argument("--weights", choices=("f32", "bf16"), required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = Opt(arguments.model).eval()
    dtype = torch.bfloat16 if arguments.weights == "bf16" else torch.float32
    wait, device = synchronizer(arguments.device), arguments.device
    model.to(dtype).to(device)
    config, batch = model.config, arguments.micro_batch
    heads = config["num_attention_heads"]
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        room = arguments.sequence + steps
        caches = [tuple(torch.empty(batch, heads, room, config["hidden_size"] // heads, dtype=dtype, device=device) for _ in range(2))
                  for _ in model.layers]
        prompt = torch.randint(config["vocab_size"], (batch, arguments.sequence), device=device)
        wait()
        start = time.perf_counter()
        F.linear(model.hidden(prompt, caches)[:, -1], model.tokens.weight)
        wait()
        prompt_seconds = time.perf_counter() - start
        seconds = []
        for step in range(steps):
            token = torch.randint(config["vocab_size"], (batch, 1), device=device)
            wait()
            start = time.perf_counter()
            F.linear(model.hidden(token, caches, arguments.sequence + step)[:, -1], model.tokens.weight)
            wait()
            seconds.append(time.perf_counter() - start)
        seconds.sort()
        print(json.dumps({"tokens_per_second": batch / seconds[len(seconds) // 2],
                          "prompt_tokens_per_second": batch * arguments.sequence / prompt_seconds,
                          "peak_resident_bytes": peak_resident_bytes()}), flush=True)


main()
