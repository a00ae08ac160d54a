"""Registers, spills and shared memory of every kernel by ptxas, and the occupancy that follows from them; with NVIDIA's
disassembler also what the machine code says (kernel_sass.py)."""

import concurrent.futures
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import kernel_sass
from kernel_names import demangled, instance, of_library
from measuring import PROJECT

FLAGS = ("-std=c++20", "-Iinclude", "-Ihost", "-Icuda", "--expt-relaxed-constexpr", "--extended-lambda",
         "-diag-suppress=20208", "-DFMT_HEADER_ONLY=1", "-DFMT_CONSTEVAL=", "-DFMT_USE_CONSTEXPR=1", "-Xptxas", "-v")

# Of a multiprocessor: warps, blocks, KiB of shared memory (1 KiB of it is the system's for each block). Registers
# are 65536 everywhere, given to a warp in units of 256.
MULTIPROCESSORS = {80: (64, 32, 164), 86: (48, 16, 100), 89: (48, 24, 100), 90: (64, 32, 228), 120: (48, 24, 100)}


def compile_one(source, architectures, disassembler):
    """What ptxas says of a file's kernels: [(mangled name, architecture, registers, spilled bytes, shared bytes)]; and
    with a disassembler [(mangled name, architecture, kernel_sass.Figures)]."""
    if "hopper" in source.parts:  # for 90a alone
        architectures = [arch for arch in architectures if arch == 90]
    if not architectures:
        return [], []
    names = ["90a" if arch == 90 else str(arch) for arch in architectures]
    targets = [word for name in names for word in ("-gencode", f"arch=compute_{name},code=sm_{name}")]
    with tempfile.TemporaryDirectory() as folder:
        finished = subprocess.run(["nvcc", "-fatbin", *FLAGS, *targets, str(source), "-o", f"{folder}/kernels.fatbin"],
                                  cwd=PROJECT, capture_output=True, text=True)
        if finished.returncode != 0:
            sys.exit(f"{source}\n{finished.stderr[-4000:]}")
        code = kernel_sass.disassemble(disassembler, f"{folder}/kernels.fatbin") if disassembler else ""
    return parse(finished.stderr), kernel_sass.kernels_of(code)


def parse(text):
    found, entry, spills = [], None, 0
    for line in text.splitlines():
        if match := re.search(r"Compiling entry function '(\S+)' for 'sm_(\d+)a?'", line):
            entry, spills = (match[1], int(match[2])), 0
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spills = max(spills, int(match[1]) + int(match[2]))
        elif entry and (match := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            found.append((*entry, int(match[1]), spills, int(shared[1]) if shared else 0))
            entry = None
    return found


def compile_all(architectures, jobs, disassembler=None):
    """{instance: {architecture: (registers, spilled bytes, static shared bytes)}} of our own kernels, and {instance:
    {architecture: kernel_sass.Figures}}, which is empty without a disassembler."""
    sources = sorted(Path(PROJECT, "cuda").rglob("*.cu"), key=lambda path: -path.stat().st_size)
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        lists = list(pool.map(lambda source: compile_one(source, architectures, disassembler), sources))
    entries = [entry for by_ptxas, _ in lists for entry in by_ptxas]
    codes = [entry for _, by_code in lists for entry in by_code]
    names = demangled([entry[0] for entry in entries])
    kernels, machine_code = {}, {}
    for mangled, architecture, *figures in entries:
        if not of_library(names[mangled]):
            kernels.setdefault(instance(names[mangled]), {})[architecture] = tuple(figures)
    for mangled, architecture, figures in codes:
        if mangled in names and not of_library(names[mangled]):
            machine_code.setdefault(instance(names[mangled]), {})[architecture] = figures
    return kernels, machine_code


def occupancy(architecture, registers, threads, shared_bytes):
    """The share of a multiprocessor's warps that are resident; None for a block size that does not fit."""
    warps_max, blocks_max, shared_kib = MULTIPROCESSORS[architecture]
    warps = math.ceil(threads / 32)
    warps_by_registers = 65536 // (math.ceil(registers * 32 / 256) * 256) // 4 * 4  # each quarter gives whole warps
    block_shared = math.ceil(shared_bytes / 128) * 128 + 1024
    blocks = min(blocks_max, warps_max // warps, warps_by_registers // warps, shared_kib * 1024 // block_shared)
    return blocks * warps / warps_max if blocks > 0 else None


def jobs_by_default():
    return len(os.sched_getaffinity(0))
