"""One GPT-2 with random weights, for both sides of scripts/bench/serve: the files that cbtm and transformers read, and
GGUF for llama.cpp. Standard library only.

The weights are drawn from a repeated table, as in checkpoints.py, so a hundred million of them take some seconds. The
matrices are the same on both sides: float32, or rounded to bfloat16 (as cbtm rounds them when it loads), or, in GGUF,
blocks of 32 int8 with a float16 scale (Q8_0).
"""

import array
import json
import random
import struct
from pathlib import Path

SHAPE = {"n_layer": 12, "n_embd": 768, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
TABLE = 1 << 18
END = 50256


class Weights:
    """Random matrices by name, [out, in] in row order; always the same for the same name."""

    def __init__(self):
        generator = random.Random(1)
        self.table = array.array("f", (generator.gauss(0, 0.02) for _ in range(TABLE)))
        self.twice = {"F32": (self.table.tobytes() * 2, 4), "BF16": (self._bf16() * 2, 2)}
        self.twice["Q8_0"] = (self._q8_0() * 2, 34 / 32)

    def _bf16(self):
        bits = array.array("I", self.table.tobytes())
        return array.array("H", ((b + 0x7FFF + (b >> 16 & 1)) >> 16 for b in bits)).tobytes()

    def _q8_0(self):
        out = bytearray()
        for begin in range(0, TABLE, 32):
            block = self.table[begin:begin + 32]
            scale = struct.unpack("<e", struct.pack("<e", max(map(abs, block)) / 127))[0]
            out += struct.pack("<e32b", scale, *(max(-127, min(127, round(x / scale))) for x in block))
        return bytes(out)

    def pieces(self, name, count, kind):
        """The bytes of `count` weights, a multiple of 32, in the kind's form."""
        data, size = self.twice[kind]
        generator = random.Random(name)
        while count > 0:
            piece = min(count, TABLE)
            place = 32 * generator.randrange(TABLE // 32)
            yield data[round(place * size):round((place + piece) * size)]
            count -= piece


def tensors(shape):
    """(name in GGUF, name in transformers, rows out, columns in, stored transposed); one row: a vector."""
    width = shape["n_embd"]
    yield "token_embd.weight", "wte.weight", shape["vocab_size"], width, False
    yield "position_embd.weight", "wpe.weight", shape["n_positions"], width, False
    for layer in range(shape["n_layer"]):
        for theirs, ours, rows, columns in (("attn_norm", "ln_1", 1, width), ("attn_qkv", "attn.c_attn", 3 * width, width),
                                            ("attn_output", "attn.c_proj", width, width), ("ffn_norm", "ln_2", 1, width),
                                            ("ffn_up", "mlp.c_fc", 4 * width, width),
                                            ("ffn_down", "mlp.c_proj", width, 4 * width)):
            norm = theirs.endswith("norm")
            yield f"blk.{layer}.{theirs}.weight", f"h.{layer}.{ours}.weight", rows, columns, not norm
            yield f"blk.{layer}.{theirs}.bias", f"h.{layer}.{ours}.bias", 1, columns if norm else rows, False
    for part in ("weight", "bias"):
        yield f"output_norm.{part}", f"ln_f.{part}", 1, width, False


def vector(name, count):
    return struct.pack("<f", 1.0 if "norm" in name and name.endswith("weight") else 0.0) * count


def vocabulary():
    """Tokens and merges of GPT-2's form: the bytes, then pairs of them, and the end of text."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    signs = {byte: chr(byte) for byte in plain}
    for byte in range(256):
        signs.setdefault(byte, chr(256 + len(signs) - len(plain)))
    letters = list(signs.values())
    pairs = [(a, b) for a in letters for b in letters][:END - 256]
    return letters + [a + b for a, b in pairs] + ["<|endoftext|>"], [f"{a} {b}" for a, b in pairs]


def write_checkpoint(folder, weights, shape=SHAPE):
    folder = Path(folder)
    folder.mkdir(parents=True)
    tokens, merges = vocabulary()
    (folder / "config.json").write_text(json.dumps(shape | {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "activation_function": "gelu_new",
        "bos_token_id": END, "eos_token_id": END, "layer_norm_epsilon": 1e-5}))
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(merge + "\n" for merge in merges))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "GPT2Tokenizer", "bos_token": tokens[END], "eos_token": tokens[END], "unk_token": tokens[END]}))
    header, begin = {"__metadata__": {"format": "pt"}}, 0
    for _, name, rows, columns, transposed in tensors(shape):
        end = begin + 4 * rows * columns
        size = [columns] if rows == 1 else [columns, rows] if transposed else [rows, columns]
        header["transformer." + name] = {"dtype": "F32", "shape": size, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for theirs, name, rows, columns, transposed in tensors(shape):
            if rows == 1:
                file.write(vector(theirs, columns))
                continue
            data = b"".join(weights.pieces(theirs, rows * columns, "F32"))
            if transposed:
                values = array.array("f", data)
                data = b"".join(values[column::columns].tobytes() for column in range(columns))
            file.write(data)
    return folder


GGUF_KINDS = {"F32": 0, "Q8_0": 8, "BF16": 30}


def write_gguf(path, weights, kind, shape=SHAPE):
    """The same model for llama.cpp; vectors and positions stay float32, as llama.cpp's own conversion leaves them."""
    def string(text):
        data = text.encode()
        return struct.pack("<Q", len(data)) + data

    def value(of):
        if isinstance(of, bool):
            return struct.pack("<I?", 7, of)
        if isinstance(of, int):
            return struct.pack("<II", 4, of)
        if isinstance(of, float):
            return struct.pack("<If", 6, of)
        if isinstance(of, str):
            return struct.pack("<I", 8) + string(of)
        if isinstance(of[0], int):
            return struct.pack(f"<IIQ{len(of)}i", 9, 5, len(of), *of)
        return struct.pack("<IIQ", 9, 8, len(of)) + b"".join(map(string, of))

    tokens, merges = vocabulary()
    about = {
        "general.architecture": "gpt2", "general.name": "random", "general.alignment": 32,
        "gpt2.context_length": shape["n_positions"], "gpt2.embedding_length": shape["n_embd"],
        "gpt2.feed_forward_length": 4 * shape["n_embd"], "gpt2.block_count": shape["n_layer"],
        "gpt2.attention.head_count": shape["n_head"], "gpt2.attention.layer_norm_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * END + [3], "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": END, "tokenizer.ggml.eos_token_id": END}
    entries, begin = [], 0
    for name, _, rows, columns, _ in tensors(shape):
        stored = "F32" if rows == 1 or name.startswith("position") else kind
        size = round(rows * columns * (weights.twice[stored][1]))
        dimensions = [columns] if rows == 1 else [columns, rows]
        entries.append((name, rows, columns, stored, size, string(name) + struct.pack(
            f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, GGUF_KINDS[stored], begin)))
        begin += size + -size % 32
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(about)))
        for key, of in about.items():
            file.write(string(key) + value(of))
        for entry in entries:
            file.write(entry[-1])
        file.write(b"\0" * (-file.tell() % 32))
        for name, rows, columns, stored, size, _ in entries:
            if rows == 1:
                file.write(vector(name, columns))
            else:
                for piece in weights.pieces(name, rows * columns, stored):
                    file.write(piece)
            file.write(b"\0" * (-size % 32))
    return path
