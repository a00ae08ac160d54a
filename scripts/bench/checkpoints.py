"""OPT checkpoints of known shapes with random weights, to measure with: no corpus and no training needed.

Standard library only. The values are those of a fresh model (normal, sigma 0.02; norms 1, biases 0), drawn from a
repeated table, so that a checkpoint of a hundred million parameters takes a second to write.
"""

import array
import json
import random
import struct
import sys
from pathlib import Path

# layers, hidden size, heads, vocabulary, positions: cbtm's presets, and two of OPT's published sizes.
SHAPES = {
    "nano": (2, 64, 2, 4096, 1024),
    "micro": (3, 128, 4, 4096, 1024),
    "mini": (4, 192, 6, 4096, 1024),
    "small": (6, 384, 6, 4096, 1024),
    "125m": (12, 768, 12, 50272, 2048),
    "1.3b": (24, 2048, 32, 50272, 2048),
}


def configuration(shape, experts=0, moe_layers=()):
    """`shape` is a name of SHAPES, or such a tuple; the feed-forward of `moe_layers` is a mixture of `experts`."""
    layers, hidden, heads, vocabulary, positions = SHAPES[shape] if isinstance(shape, str) else shape
    config = {
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "vocab_size": vocabulary, "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "ffn_dim": 4 * hidden,
        "max_position_embeddings": positions, "word_embed_proj_dim": hidden, "do_layer_norm_before": True,
        "activation_function": "relu", "dropout": 0.1, "attention_dropout": 0.1, "torch_dtype": "float32",
    }
    if experts:
        config |= {"architectures": ["OPTMoEForCausalLM"], "num_experts": experts, "experts_per_token": 2,
                   "moe_layers": list(moe_layers), "router_aux_loss_coef": 0.01}
    return config


def tensors(config):
    """Names and shapes, in the order of the file."""
    hidden, ffn = config["hidden_size"], config["ffn_dim"]
    yield "embed_tokens.weight", (config["vocab_size"], hidden)
    yield "embed_positions.weight", (config["max_position_embeddings"] + 2, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"layers.{layer}."
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{prefix}self_attn.{projection}.weight", (hidden, hidden)
            yield f"{prefix}self_attn.{projection}.bias", (hidden,)
        places = [prefix]
        if layer in config.get("moe_layers", ()):
            yield prefix + "moe.router.weight", (config["num_experts"], hidden)
            places = [f"{prefix}moe.experts.{expert}." for expert in range(config["num_experts"])]
        for place in places:
            for name, shape in (("fc1.weight", (ffn, hidden)), ("fc1.bias", (ffn,)), ("fc2.weight", (hidden, ffn)),
                                ("fc2.bias", (hidden,))):
                yield place + name, shape
        for norm in ("self_attn_layer_norm", "final_layer_norm"):
            yield f"{prefix}{norm}.weight", (hidden,)
            yield f"{prefix}{norm}.bias", (hidden,)
    yield "final_layer_norm.weight", (hidden,)
    yield "final_layer_norm.bias", (hidden,)


def write_checkpoint(directory, shape, seed=1, experts=0, moe_layers=()):
    """config.json and model.safetensors (float32) in `directory`; returns it."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = configuration(shape, experts, moe_layers)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    header, begin = {"__metadata__": {"format": "pt"}}, 0
    for name, size in tensors(config):
        end = begin + 4 * (size[0] * size[1] if len(size) == 2 else size[0])
        header["model.decoder." + name] = {"dtype": "F32", "shape": size, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    generator = random.Random(seed)
    table_size = 1 << 18
    table = array.array("f", (generator.gauss(0, 0.02) for _ in range(table_size)))
    if sys.byteorder == "big":
        table.byteswap()
    normals = table.tobytes() * 2
    with open(directory / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, size in tensors(config):
            count = size[0] * size[1] if len(size) == 2 else size[0]
            if "norm" in name or len(size) == 1:
                file.write(struct.pack("<f", 1.0 if name.endswith("norm.weight") else 0.0) * count)
                continue
            while count > 0:
                piece = min(count, table_size)
                place = 4 * generator.randrange(table_size)
                file.write(normals[place:place + 4 * piece])
                count -= piece
    return directory
