"""A small run of three experts and a server on it, for the checks with foreign clients."""

import contextlib
import json
import signal
import subprocess

SKIPPED = 77
TOPICS = (["flour", "oven", "butter", "knead", "dough", "yeast"], ["comet", "orbit", "planet", "star", "lunar", "eclipse"],
          ["ledger", "audit", "credit", "debit", "budget", "invoice"])
SHAPE = {"model_type": "opt", "vocab_size": 384, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "ffn_dim": 32, "max_position_embeddings": 128, "word_embed_proj_dim": 16, "do_layer_norm_before": True,
         "activation_function": "relu"}


def run(binary, *words, cwd):
    finished = subprocess.run([str(binary), *map(str, words)], cwd=cwd, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def make_experts(binary, work):
    """work/run: clusters, a seed and three experts, in some seconds."""
    with open(work / "corpus.jsonl", "w") as file:
        for i in range(240):
            topic = TOPICS[i % 3]
            text = " ".join(topic[(i * 7 + j * (j + i)) % 6] for j in range(20 + i % 9)) + "."
            file.write(json.dumps({"text": text, "id": str(i)}) + "\n")
    (work / "model.json").write_text(json.dumps(SHAPE))
    training = ["--run", "run", "--sequence", "32", "--batch-tokens", "384", "--learning-rate", "1e-2", "--threads", "1"]
    for words in (["cluster", "--corpus", "corpus.jsonl", "--k", "3", "--dimensions", "8", "--vocab-size", "384", "--run",
                   "run", "--threads", "1"],
                  ["train_seed", "--config", "model.json", "--steps", "20", *training],
                  ["train_expert", "--all", "--steps", "10", *training]):
        run(binary, *words, "--quiet", cwd=work)


@contextlib.contextmanager
def serving(binary, work, *words):
    """A server in `work` on a port of its own; gives its address. It must end well."""
    command = [str(binary), "serve", *map(str, words), "--port", "0", "--threads", "1", "--log", "log.jsonl", "--quiet"]
    server = subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        assert line, f"{' '.join(command)} ended with status {server.wait()}"
        yield line.split()[-1]
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    assert code == 0, code
