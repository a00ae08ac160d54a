#!/usr/bin/env python3
"""Write host/tokenizer/character_ranges.cpp: which code points GPT-2's expression calls letter, number, white space.

usage: character_classes.py CLASSES.json > host/tokenizer/character_ranges.cpp

CLASSES.json (tests/data/tokenizer/character_classes.json) holds closed ranges as the `tokenizers` library 0.23 sees
them (Unicode 16).
"""
import json
import sys

classes = json.load(open(sys.argv[1]))
names = {"letter": ("L", "letter", "letters", "\\p{L}"), "number": ("N", "number", "numbers", "\\p{N}"), "space": ("S", "s", "space", "white_space", "\\s")}


def ranges_of(kind):
    for key in names[kind]:
        if key in classes:
            return classes[key]
    raise SystemExit(f"no {kind} among {list(classes)}")


print("// Made by scripts/generate/character_classes.py; do not edit.\n")
print('#include "tokenizer/character_classes.h"\n\nnamespace cbtm {\n\n// clang-format off')
for kind in names:
    ranges = ranges_of(kind)
    print(f"const CodePointRange k{kind.capitalize()}Ranges[] = {{")
    line = ""
    for first, last in ranges:
        item = f"{{0x{first:x}, 0x{last:x}}}, "
        if len(line) + len(item) > 118:
            print("    " + line.rstrip())
            line = ""
        line += item
    print("    " + line.rstrip())
    print("};")
    print(f"const int k{kind.capitalize()}RangeCount = {len(ranges)};\n")
print("// clang-format on\n\n}  // namespace cbtm")
