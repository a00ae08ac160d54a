#!/usr/bin/env python3
"""Write host/cluster/word_tables.cpp: what Python calls word character, digit, lower case, and what decides a final sigma.

usage: word_tables.py STOP_WORDS.txt > host/cluster/word_tables.cpp      (Python 3.11: Unicode 14)

Everything is asked of Python itself, character by character, so that tf-idf tokens equal scikit-learn's.
"""
import re
import sys
import unicodedata

ALL = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
WORD = re.compile(r"\w")


def ranges(test):
    out = []
    for c in ALL:
        if not test(chr(c)):
            continue
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


# Lower-casing looks back from a capital sigma over characters that are ignored to one that is cased, and ahead likewise.
def cased(c):
    return (c + "\u03a3").lower().endswith("\u03c2")


def ignored(c):
    return not cased(c) and ("A" + c + "\u03a3").lower().endswith("\u03c2")


def print_ranges(name, values):
    print(f"const WordRange k{name}[] = {{")
    line = ""
    for first, last in values:
        item = f"{{0x{first:x}, 0x{last:x}}}, "
        if len(line) + len(item) > 116:
            print("    " + line.rstrip())
            line = ""
        line += item
    print("    " + line.rstrip() + "\n};")
    print(f"const int k{name}Count = {len(values)};\n")


print("// Made by scripts/generate/word_tables.py; do not edit.")
print("// Stop words: scikit-learn's English list (BSD 3-Clause), from the Glasgow Information Retrieval Group.\n")
print('#include "cluster/word_tables.h"\n\nnamespace cbtm {\n\n// clang-format off')
print(f'const char* const kWordTablesUnicode = "{unicodedata.unidata_version}";\n')
print_ranges("WordRanges", ranges(lambda c: WORD.match(c) is not None))
print_ranges("DigitRanges", ranges(str.isdigit))
print_ranges("CasedRanges", ranges(cased))
print_ranges("IgnoredRanges", ranges(ignored))
changed = [(c, chr(c).lower()) for c in ALL if chr(c).lower() != chr(c)]
print("const LowerCase kLowerCase[] = {")
line = ""
for c, lower in changed:
    codes = [ord(x) for x in lower] + [0] * (2 - len(lower))
    assert len(codes) == 2
    item = f"{{0x{c:x}, {{0x{codes[0]:x}, 0x{codes[1]:x}}}}}, "
    if len(line) + len(item) > 116:
        print("    " + line.rstrip())
        line = ""
    line += item
print("    " + line.rstrip() + "\n};")
print(f"const int kLowerCaseCount = {len(changed)};\n")
words = [w.strip() for w in open(sys.argv[1]) if w.strip() and not w.startswith("#")]
print("const char* const kEnglishStopWords[] = {")
line = ""
for word in words:
    item = f'"{word}", '
    if len(line) + len(item) > 116:
        print("    " + line.rstrip())
        line = ""
    line += item
print("    " + line.rstrip() + "\n};")
print(f"const int kEnglishStopWordCount = {len(words)};\n")
print("// clang-format on\n\n}  // namespace cbtm")
