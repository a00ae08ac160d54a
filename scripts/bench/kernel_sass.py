"""What the machine code of a kernel says without a GPU: hot loops, tensor cores, compare-and-swap, local memory, loads."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys

TENSOR = re.compile(r"^(HMMA|HGMMA|IMMA|IGMMA|QGMMA|DMMA|UTCHMMA|BGMMA)\b")
GLOBAL_LOAD = re.compile(r"^(LDG|LDGSTS|LD)\b")
BULK_LOAD = re.compile(r"^(UBLKCP|UTMALDG)\b")
LOCAL = re.compile(r"^(LDL|STL)\b")
CAS = re.compile(r"^(ATOMS\.CAS|ATOMS\.CAST|ATOM\.E\.CAS|ATOMG\.E\.CAS|ATOM\S*\.CAS)")
LINE = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(?:@!?U?P[T0-9]+\s+)?([A-Z][A-Z0-9_.]*)(.*?);")
TARGET = re.compile(r"0x([0-9a-f]+)")

INSTALL = "pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm, or NVIDIA's cuda-cuobjdump and cuda-nvdisasm packages"


@dataclasses.dataclass
class Figures:
    code_bytes: int = 0
    local_accesses: int = 0  # loads and stores of local memory: spills, or arrays that are not in registers
    loop_instructions: int = 0  # of the hot loop
    loop_tensor: int = 0
    loop_load_bytes: int = 0  # global memory that a thread asks for in a turn of the hot loop, or in all without one
    bulk_loads: bool = False  # loads by TMA, whose bytes are not in the instruction
    cas_loops: int = 0  # compare-and-swap of shared or global memory within a loop


def find_tool():
    """cuobjdump's path, or None. It starts nvdisasm, which must be on PATH or beside it."""
    named = os.environ.get("CBTM_CUOBJDUMP")
    if named and not os.access(named, os.X_OK):
        sys.exit(f"CBTM_CUOBJDUMP={named}: is no program")
    return named or shutil.which("cuobjdump")


def disassemble(tool, fatbin):
    environment = dict(os.environ, PATH=os.environ["PATH"] + os.pathsep + os.path.dirname(os.path.abspath(tool)))
    finished = subprocess.run([tool, "-sass", fatbin], capture_output=True, text=True, env=environment)
    if finished.returncode != 0:
        sys.exit(f"{tool} -sass {fatbin}: {finished.stderr[-2000:]}\nboth tools are needed: {INSTALL}")
    return finished.stdout


def kernels_of(text):
    """[(mangled name, architecture, Figures)] of what cuobjdump -sass prints."""
    found, architecture, name, lines = [], 0, None, []

    def close():
        if name is not None:
            found.append((name, architecture, figures_of(lines)))

    for line in text.splitlines():
        if match := re.match(r"\s*code for sm_(\d+)", line):
            close()
            architecture, name, lines = int(match[1]), None, []
        elif match := re.match(r"\s*Function : (\S+)", line):
            close()
            name, lines = match[1], []
        elif match := LINE.match(line):
            lines.append((int(match[1], 16), match[2], match[3]))
    close()
    return found


def load_bytes(opcode):
    parts = opcode.split(".")
    for width in (256, 128, 64, 16, 8):
        if str(width) in parts or f"U{width}" in parts or f"S{width}" in parts:
            return width // 8
    return 4


def figures_of(lines):
    """`lines`: (address, opcode, operands) in order."""
    figures = Figures()
    if not lines:
        return figures
    figures.code_bytes = lines[-1][0] + 16
    # A branch backwards closes a loop. The instructions that wait at the end of every kernel branch to themselves.
    loops = []
    for address, opcode, operands in lines:
        if opcode.split(".")[0] == "BRA" and (target := TARGET.search(operands)) and int(target[1], 16) < address:
            loops.append((int(target[1], 16), address))
    innermost = [loop for loop in loops
                 if not any(other != loop and loop[0] <= other[0] and other[1] <= loop[1] for other in loops)]

    def body(loop):
        return [line for line in lines if loop[0] <= line[0] <= loop[1]]

    def tensor_of(part):
        return sum(bool(TENSOR.match(opcode)) for _, opcode, _ in part)

    # Of the loop with most tensor-core instructions (an outer one may hold them between its inner loops), else of the
    # longest innermost one.
    with_tensor = [loop for loop in loops if tensor_of(body(loop)) > 0]
    if with_tensor:
        most = max(tensor_of(body(loop)) for loop in with_tensor)
        hot = min((loop for loop in with_tensor if tensor_of(body(loop)) >= 0.9 * most), key=lambda loop: loop[1] - loop[0])
    else:
        hot = max(innermost, key=lambda loop: loop[1] - loop[0], default=None)
    part = body(hot) if hot else lines
    figures.loop_instructions = len(part) if hot else 0
    figures.loop_tensor = tensor_of(part) if hot else 0
    figures.loop_load_bytes = sum(load_bytes(opcode) for _, opcode, _ in part if GLOBAL_LOAD.match(opcode))
    for address, opcode, _ in lines:
        figures.bulk_loads |= bool(BULK_LOAD.match(opcode))
        figures.local_accesses += bool(LOCAL.match(opcode))
        if CAS.match(opcode):
            figures.cas_loops += any(loop[0] <= address <= loop[1] for loop in loops)
    return figures
