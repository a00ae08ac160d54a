"""Times on a GPU: of each kernel by Nsight Systems, where it is installed, and of whole commands by cbtm bench."""

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import kernel_workloads
from kernel_floors import floors
from kernel_names import family, of_library
from checkpoints import write_checkpoint


def kernel_times(report_csv):
    """{family: (launches, seconds)} from the text of `nsys stats --report cuda_gpu_kern_sum --format csv`."""
    lines = report_csv.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("Time (%)")), None)
    if start is None:
        sys.exit(f"nsys stats: no table of kernels in its answer\n{report_csv[-2000:]}")
    times = {}
    for row in csv.DictReader(lines[start:]):
        if not row["Name"] or of_library(row["Name"]):
            continue
        launches, seconds = times.get(family(row["Name"]), (0, 0.0))
        times[family(row["Name"])] = launches + int(row["Instances"]), seconds + float(row["Total Time (ns)"]) * 1e-9
    return times


def profiled(cbtm, command, folder):
    report = folder / "report"
    kernel_workloads.run_command(cbtm, command, runner=(
        "nsys", "profile", "--trace", "cuda", "--sample", "none", "--cpuctxsw", "none", "--force-overwrite", "true",
        "--output", str(report)))
    finished = subprocess.run(["nsys", "stats", "--report", "cuda_gpu_kern_sum", "--format", "csv", "--force-export",
                               "true", f"{report}.nsys-rep"], capture_output=True, text=True)
    if finished.returncode != 0:
        sys.exit(f"nsys stats\n{finished.stderr[-2000:]}")
    return kernel_times(finished.stdout)


def timed_rows(cbtm, workload, folder, peak):
    """Rows (workload, kernel, launches a unit, microseconds a launch, share of peak bandwidth at the floor's bytes)."""
    shorter = profiled(cbtm, workload.command, folder)
    longer = profiled(cbtm, workload.longer, folder) if workload.longer else {}
    least = floors(workload.sizes)
    rows = []
    for name, (launches, seconds) in sorted((longer or shorter).items()):
        unit = launches - shorter.get(name, (0, 0))[0] if longer else launches
        if unit <= 0:
            continue
        share = least[name] / (seconds / launches * unit) / peak if name in least and peak else None
        rows.append((workload.name, name, f"{unit:g}", f"{1e6 * seconds / launches:.2f}",
                     f"{100 * share:.1f} %" if share else "n/a"))
    return rows


def bench(cbtm, command, folder):
    result = folder / "bench.json"
    kernel_workloads.run_command(cbtm, [*command, "--json", result], runner=())
    return json.loads(result.read_text())


def peak_bandwidth(cbtm, folder):
    """Bytes a second, as cbtm reads it off the GPU; 0 if it does not know."""
    model = write_checkpoint(folder / "probe", "nano")
    result = bench(cbtm, ["bench", "decode", "--model", model, "--sequence", 8, "--steps", 4], folder)
    share = result.get("fraction_of_bandwidth", 0)
    return result["bytes_per_second"] / share if share else 0


def measure(cbtm, shape, folder, wanted):
    """Tables of whole commands on a model of `shape`, and of kernels in the workloads that the counts are of."""
    model = write_checkpoint(folder / "whole", shape)
    whole = []
    result = bench(cbtm, ["bench", "train", "--model", model, "--sequence", 1024, "--micro-batch", 8], folder)
    whole.append((f"train {shape}", result["precision"], f"{result['tokens_per_second']:.0f}",
                  f"{100 * result['fraction_of_peak']:.1f} % of flops" if "fraction_of_peak" in result else "n/a"))
    for weights in ("bf16", "int8", "int4"):
        result = bench(cbtm, ["bench", "decode", "--model", model, "--sequence", 1024, "--micro-batch", 1, "--steps", 64,
                              "--weights", weights], folder)
        share = result.get("fraction_of_bandwidth")
        whole.append((f"decode {shape}", weights, f"{result['tokens_per_second']:.0f}",
                      f"{100 * share:.1f} % of bandwidth" if share else "n/a"))
    kernels = []
    if shutil.which("nsys") is None:
        print("nsys is not on this machine (packages cuda-nsight-systems-*): no times of kernels", file=sys.stderr)
        return whole, kernels
    peak = peak_bandwidth(cbtm, folder)
    for workload in kernel_workloads.workloads(folder, wanted):
        with tempfile.TemporaryDirectory() as reports:
            kernels += timed_rows(cbtm, workload, Path(reports), peak)
    return whole, kernels
