"""The servers that scripts/bench/serve measures, each on a port of its own of this machine alone."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import measuring
from checkpoints import SHAPES, write_checkpoint

START_SECONDS = 120


class CbtmServer:
    def __init__(self, arguments, folder, *flags):
        self.process = subprocess.Popen(
            [arguments.cbtm, "serve", *map(str, flags), "--port", "0", "--threads", str(arguments.threads), "--device",
             arguments.device, "--parallel", "64", "--log", str(folder / "log.jsonl"), "--quiet"],
            stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"cbtm serve ended with status {self.process.wait()}; see its message above")
        self.address = line.split()[-1]
        with urllib.request.urlopen(f"{self.address}/v1/models") as reply:
            self.model = json.load(reply)["data"][0]["id"]

    def whole(self, body):
        """Seconds of one request without a stream."""
        request = urllib.request.Request(f"{self.address}/v1/completions", json.dumps(body).encode())
        begin = time.perf_counter()
        with urllib.request.urlopen(request) as reply:
            reply.read()
        return time.perf_counter() - begin

    def close(self):
        self.process.terminate()
        self.process.wait()


class DidNotStart(Exception):
    pass


class LlamaServer:
    """llama.cpp's server with continuous batching, and room for every client's longest text."""

    def __init__(self, arguments, folder, gguf):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address, self.model = f"http://127.0.0.1:{port}", "random"
        slots = max(arguments.clients)
        self.log = open(folder / "llama-server.log", "wb")
        self.process = subprocess.Popen(
            [arguments.llama_server, "--model", str(gguf), "--host", "127.0.0.1", "--port", str(port), "--parallel",
             str(slots), "--ctx-size", str(slots * 1024), "--threads", str(arguments.threads), "--threads-batch",
             str(arguments.threads), "--cont-batching", "--cache-ram", "0"], stdout=self.log, stderr=subprocess.STDOUT)
        for _ in range(START_SECONDS * 10):
            try:
                urllib.request.urlopen(f"{self.address}/health").read()
                return
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None:
                    break
                time.sleep(0.1)
        status = self.process.poll()
        self.close()
        raise DidNotStart(f"{gguf.name}: llama-server " + ("is still loading" if status is None else f"ended with status {status}")
                          + ":\n" + (folder / "llama-server.log").read_text()[-1000:])

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def generate_seconds(arguments, folder, model, prompts, tokens):
    """Seconds of a whole run of cbtm generate, loading included."""
    (folder / "prompts.json").write_text(json.dumps(prompts))
    begin = time.perf_counter()
    measuring.cbtm_json(arguments, "generate", "--model", model, "--prompt-ids", folder / "prompts.json",
                        "--max-new-tokens", tokens, "--greedy", "--ignore-eos")
    return time.perf_counter() - begin


def write_mixture(arguments, folder):
    """Four experts of 125m's shape with random weights behind a real router; a run, one expert and the vocabulary."""
    run, experts, words = folder / "run", 4, ("baryon lepton quark gluon", "sonata fugue rondo motet", "basalt granite marl chert",
                                              "tort lien writ plea")
    with open(folder / "corpus.jsonl", "w") as file:
        for number in range(60 * experts):
            own = words[number % experts].split()
            text = " ".join(own[(number * 7 + place * (place + number)) % 4] for place in range(40)) + f" {number}"
            file.write(json.dumps({"text": text}) + "\n")
    measuring.cbtm_json(arguments, "cluster", "--corpus", folder / "corpus.jsonl", "--k", experts, "--dimensions", 8,
                        "--vocab-size", 512, "--run", run)
    layers, hidden, heads, _, positions = SHAPES["125m"]
    vocabulary = 512
    # The token table is 125m's, too: it is as much work at each step as a third of the layers.
    for expert in range(experts):
        write_checkpoint(run / "experts" / f"{expert:03d}", (layers, hidden, heads, SHAPES["125m"][3], positions), seed=expert)
    return run, run / "experts/000", vocabulary
