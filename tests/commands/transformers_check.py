"""What ./cbtm writes, transformers loads, and the logits agree.

    python transformers_check.py BINARY TEST_DATA     exit code 77: this Python has no torch or transformers

Trains a model of each kind for no step (train_seed takes it over and writes it anew), then compares transformers'
logits of what was written with cbtm logits, and the tokenizer's ids with cbtm tokenizer encode.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

SKIPPED = 77
try:
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as error:
    print(f"SKIPPED: {error}; nothing was compared with transformers")
    sys.exit(SKIPPED)

TOLERANCE = 1e-4  # logits within +-9 in float32


def run(*words):
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def write_corpus(path):
    words = [["oven", "dough", "butter", "crust"], ["comet", "orbit", "planet", "lunar"]]
    with open(path, "w") as file:
        for i in range(240):
            topic = words[i % 2]
            text = " ".join(topic[(i * 7 + j * (j + i)) % 4] for j in range(20 + i % 9)) + f" {i}."
            file.write(json.dumps({"text": text}) + "\n")


def check(binary, model_kind, work, data):
    run(binary, "train_seed", "--run", work / "run", "--redo", "--threads", 1, *model_kind)
    seed = work / "run" / "seed"
    vocab = json.loads((seed / "config.json").read_text())["vocab_size"]
    ids = torch.tensor([[2] + [(i * 37 + row * 11) % vocab for i in range(30)] for row in range(3)])
    (work / "ids.json").write_text(json.dumps(ids.tolist()))
    run(binary, "logits", "--model", seed, "--ids", work / "ids.json", "--out", work / "logits.safetensors",
        "--threads", 1)
    ours = load_file(work / "logits.safetensors")["logits"]
    model, report = transformers.AutoModelForCausalLM.from_pretrained(seed, output_loading_info=True)
    missing = [key for key in report["missing_keys"] if "lm_head" not in key]
    assert not missing and not report["unexpected_keys"] and not report["mismatched_keys"], report
    model = model.float().eval()
    with torch.no_grad():
        theirs = model(ids).logits
    largest = (ours - theirs).abs().max().item()
    print(f"{' '.join(str(word) for word in model_kind)}: largest difference of logits {largest:.2e}")
    assert largest <= TOLERANCE, largest
    tokenizer = transformers.AutoTokenizer.from_pretrained(seed)
    texts = ["The comet's orbit.", " two  spaces\n", "na\u00efve \u4f60\u597d", "1234 dough!"]
    (work / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    run(binary, "tokenizer", "encode", "--tokenizer", seed, "--input", work / "texts.jsonl", "--output",
        work / "encoded.jsonl")
    encoded = [json.loads(line) for line in (work / "encoded.jsonl").read_text().splitlines()]
    for text, mine in zip(texts, encoded):
        assert tokenizer(text)["input_ids"] == mine, (text, tokenizer(text)["input_ids"], mine)


def check_mixture(binary, model, work, data):
    """A mixture of experts, which transformers loads by the code in scripts/transformers."""
    exported = work / "exported"
    run(sys.executable, data.parent.parent / "scripts/transformers/export", model, exported)
    vocab = json.loads((model / "config.json").read_text())["vocab_size"]
    ids = torch.tensor([[2] + [(i * 37 + row * 11) % vocab for i in range(30)] for row in range(3)])
    (work / "ids.json").write_text(json.dumps(ids.tolist()))
    run(binary, "logits", "--model", exported, "--ids", work / "ids.json", "--out", work / "logits.safetensors",
        "--threads", 1)
    ours = load_file(work / "logits.safetensors")["logits"]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True).float().eval()
    with torch.no_grad():
        largest = (ours - theirs(ids).logits).abs().max().item()
    print(f"mixture of experts: largest difference of logits {largest:.2e}")
    assert largest <= TOLERANCE, largest


def main():
    binary, data = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    with tempfile.TemporaryDirectory() as directory:
        work = pathlib.Path(directory)
        write_corpus(work / "corpus.jsonl")
        run(binary, "cluster", "--corpus", work / "corpus.jsonl", "--k", 2, "--dimensions", 4, "--vocab-size", 300,
            "--out", work / "run", "--threads", 1)
        check(binary, ["--preset", "nano", "--steps", 3, "--sequence", 32, "--batch-tokens", 128], work, data)
        for model in ("tiny-preln/safetensors-f32", "tiny-postln-proj/safetensors-f32"):
            check(binary, ["--init", data / "opt/models" / model, "--sequence", 32], work, data)
        gpt2 = json.loads((data / "families/models/gpt2/hub-f32/config.json").read_text())
        for tied in (True, False):
            (work / "gpt2.json").write_text(json.dumps(gpt2 | {"vocab_size": 304, "tie_word_embeddings": tied}))
            check(binary, ["--config", work / "gpt2.json", "--steps", 3, "--sequence", 32, "--batch-tokens", 128],
                  work, data)
        check_mixture(binary, data / "moe/e4-odd/moe-f16", work, data)
    print("transformers", transformers.__version__, "reads what cbtm writes")


main()
