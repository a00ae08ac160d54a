"""transformers' side of scripts/bench/serve --measure mixture: two models, their probabilities mixed at each step.

A static batch of prompts of one length, key-value caches, greedy. Speaks the worker protocol of measuring.py.
"""

import argparse
import json
import os
import sys
import time

os.environ["HF_HUB_OFFLINE"] = "1"
import torch  # noqa: E402
import transformers  # noqa: E402


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", nargs="+", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = [transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval().to(arguments.device)
              for path in arguments.experts]
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        begin = time.perf_counter()
        ids = torch.tensor(request["prompts"], device=arguments.device)
        caches = [None] * len(models)
        for _ in range(request["tokens"]):
            mixed = 0
            for number, model in enumerate(models):
                # Logits of the last position alone.
                out = model(ids, past_key_values=caches[number], use_cache=True, logits_to_keep=1)
                caches[number] = out.past_key_values
                mixed = mixed + torch.softmax(out.logits[:, -1].float(), -1) / len(models)
            ids = mixed.argmax(-1, keepdim=True)
        seconds = time.perf_counter() - begin
        print(json.dumps({"tokens_per_second": len(request["prompts"]) * request["tokens"] / seconds}), flush=True)


main()
