"""The workloads of scripts/bench/kernels: commands of cbtm whose kernels are counted by the simulator."""

import dataclasses
import json
import os
import random
import re
import subprocess
import sys

from checkpoints import write_checkpoint
from measuring import PROJECT

RUNNER = PROJECT / "tests" / "cuda" / "run"

# Real widths (those of OPT 125m: rows of 768, 2304 and 3072, heads of 64), few layers, a small vocabulary.
LAYERS, HIDDEN, HEADS, VOCABULARY, POSITIONS = 2, 768, 12, 4096, 1024
SHAPE = (LAYERS, HIDDEN, HEADS, VOCABULARY, POSITIONS)
SEQUENCE = 256  # tokens of a training step
PROMPT = 500  # tokens in the cache when decoding starts
EXPERTS = 2
MIXTURE = 8  # experts of a feed-forward; in the second layer
CLUSTERS, DOCUMENTS, WORDS = 8, 2000, 120


@dataclasses.dataclass
class Workload:
    name: str
    unit: str  # what the counts are of: "step", or "run" where nothing is subtracted
    command: list
    longer: list  # the same command one unit longer; empty: the counts are of the whole run
    # Multiprocessors of the simulated GPU. Kernels whose blocks go on from row to row have a grid as large as the GPU;
    # a training step of 256 rows on 4 gives a multiprocessor as many rows as one of 8448 rows gives each of an H100.
    multiprocessors: int
    # What the floors are evaluated on (kernel_floors.py).
    sizes: dict = dataclasses.field(default_factory=dict)


def write_corpus(path):
    """Documents of a few subjects; words at Zipf frequencies, a third of a document's from its subject's own list."""
    generator = random.Random(7)
    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    words = ["".join(generator.choice(syllables) for _ in range(generator.randint(2, 4))) for _ in range(20000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    own = [generator.sample(words[100:], 500) for _ in range(CLUSTERS)]
    own_weights = weights[:500]
    with open(path, "w") as file:
        for number in range(DOCUMENTS):
            count = max(8, int(generator.lognormvariate(0, 0.6) * WORDS))
            text = generator.choices(words, weights, k=count - count // 3)
            text += generator.choices(own[number % CLUSTERS], own_weights, k=count // 3)
            generator.shuffle(text)
            file.write(json.dumps({"id": str(number), "text": " ".join(text)}) + "\n")


def train(model, name="train", sequence=SEQUENCE):
    def command(steps):
        return ["bench", "train", "--model", model, "--sequence", sequence, "--micro-batch", 1, "--steps", steps,
                "--precision", "bf16", "--no-cuda-graph"]
    return Workload(name, "step", command(1), command(2), 4, {"rows": sequence, "sequence": sequence, "training": True})


def train_moe(model):
    workload = train(model, "train moe")
    workload.sizes |= {"mixture": MIXTURE}
    return workload


def decode(model, weights, sequences, mixture=0):
    def command(steps):
        return ["bench", "decode", "--model", model, "--sequence", PROMPT, "--micro-batch", sequences, "--steps", steps,
                "--weights", weights]
    return Workload(f"decode {'moe ' if mixture else ''}{weights} x{sequences}", "token", command(1), command(2), 132,
                    {"rows": sequences, "cached": PROMPT + 2, "weights": weights, "mixture": mixture})


def workloads(folder, wanted):
    """Makes what the commands read, in `folder`, and yields the wanted workloads; later ones read what earlier ones
    wrote, so the clustering runs whenever the ensemble does."""
    model = write_checkpoint(folder / "model", SHAPE)
    if "train" in wanted:
        yield train(model)
    if "decode" in wanted:
        for weights, sequences in (("bf16", 1), ("bf16", 8), ("int8", 1), ("int4", 1)):
            yield decode(model, weights, sequences)
    if "moe" in wanted:
        mixture = write_checkpoint(folder / "mixture", SHAPE, experts=MIXTURE, moe_layers=[1])
        yield train_moe(mixture)
        for sequences in (1, 8):
            yield decode(mixture, "bf16", sequences, MIXTURE)
    if not wanted & {"cluster", "ensemble"}:
        return
    write_corpus(folder / "corpus.jsonl")
    run = folder / "run"
    yield Workload("cluster", "run", ["cluster", "--corpus", folder / "corpus.jsonl", "--k", CLUSTERS, "--vocab-size",
                                      VOCABULARY, "--out", run], [], 4, {})
    if "ensemble" not in wanted:
        return
    for expert in range(EXPERTS):
        write_checkpoint(folder / "experts" / f"{expert:03d}", SHAPE, seed=expert + 2)
    places = ["--experts", folder / "experts", "--router", run / "router", "--tokenizer", run / "tokenizer",
              "--weights", "bf16", "--topk", EXPERTS]
    (folder / "ids.json").write_text(json.dumps([[2, *range(300, 364)]]))

    def generate(tokens, *others):
        return ["ensemble", "generate", *places, *others, "--prompt-ids", folder / "ids.json", "--max-new-tokens", tokens,
                "--ignore-eos", "--temperature", "0.8", "--sampling-top-p", "0.9"]

    yield Workload("ensemble generate", "token", generate(2), generate(3), 132,
                   {"rows": 1, "cached": 67, "weights": "bf16", "experts": EXPERTS})
    coefficients = "--coefficients", "000=1.5,001=-0.5"
    yield Workload("ensemble product", "token", generate(2, *coefficients), generate(3, *coefficients), 132,
                   {"rows": 1, "cached": 67, "weights": "bf16", "experts": EXPERTS, "product": True})
    lines = (folder / "corpus.jsonl").read_text().splitlines()
    (folder / "score.jsonl").write_text("\n".join(lines[:4]) + "\n")
    yield Workload("ensemble evaluate", "run", ["ensemble", "evaluate", *places, "--corpus", folder / "score.jsonl",
                                                "--max-tokens", 256], [], 132, {})


def launch_workloads(folder):
    """Training steps of narrow models of one and of two layers: the launches of a step do not depend on widths."""
    for layers in (1, 2):
        shape = (layers, 64, 1, 384, 64)
        yield layers, train(write_checkpoint(folder / f"narrow-{layers}", shape), f"launches, {layers} layers", 64)


def where():
    """gpu, simulator or nowhere."""
    return subprocess.run([str(RUNNER), "--where"], capture_output=True, text=True).stdout.strip()


def run_command(cbtm, command, environment=None, runner=(str(RUNNER),)):
    """Runs cbtm on the CUDA device and returns what it wrote with --json."""
    words = [*runner, str(cbtm), *map(str, command), "--device", "cuda", "--quiet"]
    finished = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ, **(environment or {})))
    if finished.returncode != 0:
        sys.exit(f"{' '.join(words)}\n{finished.stderr[-4000:]}")
    return finished.stdout


def calls_workloads(folder):
    """A training step as a graph, and a token of 8 sequences: (name, command, the same one unit longer)."""
    model = str(write_checkpoint(folder / "calls", (2, 64, 1, 384, 64)))
    train_words = ["bench", "train", "--model", model, "--sequence", 64, "--micro-batch", 2, "--precision", "bf16"]
    decode_words = ["bench", "decode", "--model", model, "--sequence", 32, "--micro-batch", 8, "--weights", "bf16"]
    for name, words in (("a training step", train_words), ("a token of 8 sequences", decode_words)):
        yield name, [*words, "--steps", 4], [*words, "--steps", 5]


def calls(cbtm, folder):
    """{name: {API call: (calls, bytes)}} of a unit more, by the simulator."""
    found = {}
    for name, *commands in calls_workloads(folder):
        counted = []
        for number, command in enumerate(commands):
            path = folder / f"calls-{number}.json"
            run_command(cbtm, command, {"CUDASIM_STATS": str(path), "CUDASIM_CHECK": "none", "CBTM_MATMUL": "library"})
            counted.append(json.loads(path.read_text())["calls"])
        shorter, longer = counted
        found[name] = {}
        for call, entry in longer.items():
            before = shorter.get(call, {"calls": 0, "bytes": 0})
            if entry["calls"] != before["calls"]:
                found[name][call] = entry["calls"] - before["calls"], entry["bytes"] - before["bytes"]
    return found


def counters_of(path):
    return {kernel["name"]: kernel for kernel in json.loads(path.read_text())["kernels"]}


COUNTERS = ("launches", "blocks", "instructions", "global_load_bytes", "global_store_bytes", "load_sectors",
            "store_sectors", "unique_bytes_read", "unique_bytes_written", "shared_requests", "shared_extra_wavefronts",
            "flops", "tensor_flops", "shared_atomic_requests", "shared_atomic_passes", "global_atomic_requests",
            "global_atomic_passes", "shared_cas_loop_passes")


def count(cbtm, workload, folder):
    """The simulator's counters of each kernel, by its whole name: of the run, or of its last unit alone, which is what
    the longer run has more (uploads, warming up and choosing algorithms are in both)."""
    results = []
    for number, command in enumerate(filter(None, (workload.command, workload.longer))):
        path = folder / f"{re.sub('[^a-z0-9]+', '-', workload.name)}-{number}.json"
        # Ways to multiply are chosen by their times, which say nothing under the simulator: here it is cuBLASLt.
        run_command(cbtm, command, {"CUDASIM_STATS": str(path), "CUDASIM_CHECK": "none", "CBTM_MATMUL": "library",
                                    "CUDASIM_SMS": str(workload.multiprocessors)})
        results.append(counters_of(path))
    if len(results) == 1:
        return results[0]
    shorter, longer = results
    for name, kernel in longer.items():
        for counter in COUNTERS:
            kernel[counter] -= shorter.get(name, {}).get(counter, 0)
    return {name: kernel for name, kernel in longer.items() if kernel["launches"] > 0}
