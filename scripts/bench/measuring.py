"""What the measuring scripts share: finding cbtm, running it, medians, and a table for people beside JSON."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def common_arguments(description, examples):
    parser = argparse.ArgumentParser(description=description, epilog=examples,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cbtm", default=str(PROJECT / "cbtm"), metavar="PATH", help="the binary to measure (%(default)s)")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has PyTorch: measures it beside cbtm, run by run")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:N (%(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
                        help="threads of either side (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="alternating runs; the median counts (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write every measurement and the settings here as well")
    return parser


def ready(arguments):
    """Ends the script with a hint where something it needs is not there."""
    if not os.access(arguments.cbtm, os.X_OK):
        sys.exit(f"{arguments.cbtm}: is not there; run make first, or name the binary with --cbtm")
    if arguments.torch:
        importable(arguments.torch, "torch")


def importable(python, module):
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode != 0:
        sys.exit(f"{python}: cannot import {module}; install it there (pip install {module}), or leave out --torch")


def cbtm_json(arguments, *command, binary=None):
    """Runs the binary (--cbtm unless another is named) and returns what it wrote with --json."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        finished = subprocess.run([binary or arguments.cbtm, *map(str, command), "--threads", str(arguments.threads), "--device",
                                   arguments.device, "--quiet", "--json", str(result)], capture_output=True, text=True)
        if finished.returncode != 0:
            sys.exit(f"cbtm {' '.join(map(str, command))}\n{finished.stderr}")
        return json.loads(result.read_text())


class ForeignWorker:
    """Another program's side that stays alive between the rounds, so that importing and compiling are paid and counted once:
    each line written to it is one measurement, answered by a line of JSON; its first line says what it is."""

    def __init__(self, arguments, python, script, *options):
        environment = dict(os.environ, OMP_NUM_THREADS=str(arguments.threads), MKL_NUM_THREADS=str(arguments.threads))
        self.process = subprocess.Popen([python, str(HERE / script), *map(str, options), "--threads",
                                         str(arguments.threads), "--device", arguments.device], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment)
        self.about = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the other side ended with status {self.process.wait()}; see its message above")
        return json.loads(line)

    def measure(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class TorchWorker(ForeignWorker):
    """The side of the Python that --torch names."""

    def __init__(self, arguments, script, *options):
        super().__init__(arguments, arguments.torch, script, *options)


def median(values):
    return statistics.median(values)


def mebibytes(count):
    return f"{count / (1 << 20):.0f}"


def machine():
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return {"processor": model, "cores": len(os.sched_getaffinity(0)), "system": platform.platform()}


def cbtm_version(arguments):
    return subprocess.run([arguments.cbtm, "--version"], capture_output=True, text=True).stdout.strip()


def versions_line(versions):
    return " · ".join([versions["cbtm"], f"torch {versions['torch']}" if versions["torch"] else "without PyTorch",
                       f"{versions['threads']} threads", versions["machine"]["processor"]])


def print_table(header, rows):
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        cells = [str(cell).ljust(width) if column == 0 else str(cell).rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip(), flush=True)


def write_json(arguments, result):
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n")
