#!/usr/bin/env python3
"""Write host/tokenizer/word_ranges.cpp: which code points the `tokenizers` library counts as part of a word.

usage: word_characters.py > host/tokenizer/word_ranges.cpp      (needs pip install tokenizers==0.23.*)

Asks the library itself: an added token with single_word is not found beside such a character.
"""
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

tokenizer = Tokenizer(BPE(vocab={}, merges=[]))
tokenizer.add_tokens([AddedToken("<>", single_word=True, normalized=False)])
ranges = []
for code in range(0x110000):
    if 0xD800 <= code <= 0xDFFF or tokenizer.encode(chr(code) + "<>").ids:
        continue
    if ranges and ranges[-1][1] == code - 1:
        ranges[-1][1] = code
    else:
        ranges.append([code, code])

print("// Made by scripts/generate/word_characters.py; do not edit.\n")
print('#include "tokenizer/character_classes.h"\n\nnamespace cbtm {\n\n// clang-format off')
print("const CodePointRange kSingleWordRanges[] = {")
line = ""
for first, last in ranges:
    item = f"{{0x{first:x}, 0x{last:x}}}, "
    if len(line) + len(item) > 118:
        print("    " + line.rstrip())
        line = ""
    line += item
print("    " + line.rstrip())
print("};")
print(f"const int kSingleWordRangeCount = {len(ranges)};\n")
print("// clang-format on\n\n}  // namespace cbtm")
