"""CTranslate2's side of scripts/bench/decode: an OPT checkpoint of checkpoints.py or cbtm in its decoder.

Speaks the worker protocol of measuring.py. Needs ctranslate2 and numpy; the weights are handed over in float32 and
converted by CTranslate2 when it loads them (compute_type). Its speed is that of generate_batch: the time of a prompt and
`steps` more tokens, less that of the prompt and one token.
"""

import argparse
import json
import struct
import sys
import tempfile
import time
from pathlib import Path

import ctranslate2
import numpy
from ctranslate2.specs import common_spec, transformer_spec

from torch_process import peak_resident_bytes

COMPUTE_TYPES = {"f32": "float32", "int8": "int8_float32"}


def read_tensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: numpy.frombuffer(data, numpy.float32, offset=8 + size + entry["data_offsets"][0],
                                   count=(entry["data_offsets"][1] - entry["data_offsets"][0]) // 4).reshape(entry["shape"])
            for name, entry in header.items()}


def convert(directory, target):
    config = json.loads((directory / "config.json").read_text())
    tensors = {name.removeprefix("model.decoder.").removeprefix("decoder."): values
               for name, values in read_tensors(directory / "model.safetensors").items()}

    def set_linear(spec, *names):
        spec.weight = numpy.concatenate([tensors[f"{name}.weight"] for name in names])
        spec.bias = numpy.concatenate([tensors[f"{name}.bias"] for name in names])

    def set_norm(spec, name):
        spec.gamma, spec.beta = tensors[f"{name}.weight"], tensors[f"{name}.bias"]

    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config["num_hidden_layers"], config["num_attention_heads"], pre_norm=True, activation=common_spec.Activation.RELU)
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = tensors["embed_tokens.weight"]
    decoder.projection.weight = tensors["embed_tokens.weight"]
    decoder.position_encodings.encodings = tensors["embed_positions.weight"][2:]  # OPT's positions begin at 2
    set_norm(decoder.layer_norm, "final_layer_norm")
    for number, layer in enumerate(decoder.layer):
        name = f"layers.{number}"
        set_norm(layer.self_attention.layer_norm, f"{name}.self_attn_layer_norm")
        set_linear(layer.self_attention.linear[0], *(f"{name}.self_attn.{part}_proj" for part in "qkv"))
        set_linear(layer.self_attention.linear[1], f"{name}.self_attn.out_proj")
        set_norm(layer.ffn.layer_norm, f"{name}.final_layer_norm")
        set_linear(layer.ffn.linear_0, f"{name}.fc1")
        set_linear(layer.ffn.linear_1, f"{name}.fc2")
    spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = "t0"
    spec.register_vocabulary([f"t{i}" for i in range(config["vocab_size"])])
    spec.validate()
    spec.save(target)
    return config


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sequence", type=int, required=True)
    parser.add_argument("--micro-batch", type=int, required=True)
    parser.add_argument("--weights", choices=list(COMPUTE_TYPES), required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = convert(Path(arguments.model), folder)
        generator = ctranslate2.Generator(folder, device=arguments.device, compute_type=COMPUTE_TYPES[arguments.weights],
                                          intra_threads=arguments.threads, inter_threads=1)
    print(json.dumps({"ctranslate2": ctranslate2.__version__, "compute_type": generator.compute_type}), flush=True)
    random = numpy.random.default_rng(1)

    def seconds(length):
        prompts = [[f"t{i}" for i in random.integers(1, config["vocab_size"], arguments.sequence)]
                   for _ in range(arguments.micro_batch)]
        start = time.perf_counter()
        results = generator.generate_batch(prompts, max_length=length, min_length=length, sampling_topk=1,
                                           include_prompt_in_result=False, end_token=[], max_batch_size=0)
        taken = time.perf_counter() - start
        if any(len(result.sequences[0]) != length for result in results):
            sys.exit("ctranslate2 generated another number of tokens than it was asked for")
        return taken

    seconds(2)
    for line in sys.stdin:
        steps = json.loads(line)["steps"]
        one, all_steps = seconds(1), seconds(1 + steps)
        print(json.dumps({"tokens_per_second": arguments.micro_batch * steps / (all_steps - one),
                          "prompt_tokens_per_second": arguments.micro_batch * arguments.sequence / one,
                          "peak_resident_bytes": peak_resident_bytes()}), flush=True)


main()
