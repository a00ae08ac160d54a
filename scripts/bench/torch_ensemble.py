"""PyTorch's side of scripts/bench/ensemble: the obvious script, which runs every expert over every document.

Documents are batched and padded by length; the mixing weights are taken as given (uniform), so routing costs nothing
here. Speaks the worker protocol of measuring.py.
"""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from torch_opt import Opt
from torch_process import peak_resident_bytes, synchronizer

TOKENS_AT_ONCE = 4096


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experts", required=True)
    parser.add_argument("--ids", required=True)
    parser.add_argument("--sequence", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    synchronizer(arguments.device)
    experts = [Opt(path).eval().to(arguments.device) for path in sorted(Path(arguments.experts).iterdir())]
    documents = [json.loads(line) + [2] for line in Path(arguments.ids).read_text().splitlines()]
    documents = sorted((ids[:arguments.sequence + 1] for ids in documents), key=len)
    batches, batch = [], []
    for ids in documents:
        if batch and len(ids) * (len(batch) + 1) > TOKENS_AT_ONCE:
            batches.append(batch)
            batch = []
        batch.append(ids)
    batches.append(batch)
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss, tokens = 0.0, 0
        for batch in batches:
            longest = max(map(len, batch))
            ids = torch.tensor([one + [1] * (longest - len(one)) for one in batch], device=arguments.device)
            scored = torch.tensor([[place < len(one) for place in range(1, longest)] for one in batch],
                                  device=arguments.device)
            targets = ids[:, 1:]
            each = []
            for expert in experts:
                logits = F.linear(expert.hidden(ids[:, :-1]), expert.tokens.weight)
                each.append(-F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none"))
            mixed = torch.logsumexp(torch.stack(each), 0) - math.log(len(experts))
            loss -= mixed[scored.flatten()].sum().item()
            tokens += int(scored.sum())
        seconds = time.perf_counter() - start
        print(json.dumps({"tokens_per_second": tokens / seconds, "negative_log_likelihood": loss, "tokens": tokens,
                          "peak_resident_bytes": peak_resident_bytes()}), flush=True)


main()
