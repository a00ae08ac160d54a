"""What gpu-check does, phase by phase, the most important first."""

import json
import re
import shutil
import sys
import xml.etree.ElementTree
from collections import namedtuple

sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1] / "bench"))
from checkpoints import write_checkpoint  # noqa: E402

Phase = namedtuple("Phase", "name seconds help run")

# Tests that are under compute-sanitizer too: a kernel of every kind, in a minute or two.
SANITIZED = "cuda_(gather|layernorm|embedding|linear|attention_cached|mixture|optimizer)$"
# Tests of minutes under the simulator are left out there.
SIMULATED = "cuda_(gather|convert|device|mixture|layernorm)$"


def machine(work, results):
    facts = {}
    if not work.simulate:
        _, text = work.run(["nvidia-smi", "--query-gpu=name,driver_version,compute_cap,memory.total,clocks.max.sm,"
                            "clocks.max.memory,power.limit", "--format=csv,noheader"])
        names = ("gpu", "driver", "compute capability", "memory", "largest clock", "memory clock", "power limit")
        for line in text.strip().splitlines():
            results.add(**dict(zip(names, (part.strip() for part in line.split(",")))))
        facts["capability"] = text.split(",")[2].strip()
    for command, pattern in ((["nvcc", "--version"], r"release ([\d.]+)"), (["cmake", "--version"], r"version ([\d.]+)"),
                             (["ninja", "--version"], r"([\d.]+)"), (["g++", "--version"], r"\) ([\d.]+)")):
        code, text = work.run(command, check=False)
        found = re.search(pattern, text)
        results.add(program=command[0], version=found.group(1) if code == 0 and found else "missing")
    code, text = work.run([work.arguments.torch, "-c", "import torch; print(torch.__version__, torch.version.cuda)"], check=False)
    results.add(program="PyTorch", version=text.strip() if code == 0 else "missing")
    _, commit = work.run(["git", "-C", work.root, "log", "-1", "--format=%h %cs"], check=False)
    results.add(program="cbtm", version=commit.strip() or "no git here")


def architecture(work):
    if work.simulate:
        return "80-virtual"
    _, text = work.run(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"])
    capability = text.split()[0].replace(".", "")
    return ("90a" if capability == "90" else capability) + "-real"


def build(work, results):
    _, nvcc = work.run(["sh", "-c", "command -v nvcc"])
    flags = ["-G", "Ninja", "-DCBTM_CUDA=ON", "-DCBTM_SHARED_CUDART=ON", "-DCMAKE_BUILD_TYPE=Release",
             f"-DCMAKE_CUDA_COMPILER={nvcc.strip()}", f"-DCMAKE_CUDA_ARCHITECTURES={architecture(work)}"]
    if dependencies := work.unpack_dependencies():
        flags.append(f"-DCMAKE_PREFIX_PATH={dependencies}")
        if (dependencies / "include/nccl.h").exists():
            flags.append(f"-DNCCL_INCLUDE_DIR={dependencies / 'include'}")
    work.run(["cmake", "-S", work.root, "-B", work.build, *flags])
    for target in ("cbtm", "cuda_tests", "cbtm_bench_operators"):
        work.run(["cmake", "--build", work.build, "-j", work.arguments.jobs, "--target", target])
        results.add(built=target)


def ceilings(work, results):
    measured = work.cbtm("bench", "device")
    results.add(what="copy, GB/s", reached=measured["copy"]["bytes_per_second"] / 1e9,
                datasheet=measured.get("datasheet_bytes_per_second", 0) / 1e9)
    for product in measured["products"]:
        narrow = product["type"] != "float32"
        results.add(what=f"{product['type']} product of {product['size']}, TFLOP/s", reached=product["flops_per_second"] / 1e12,
                    datasheet=measured.get("datasheet_flops_per_second", 0) / 1e12 if narrow else 0.0)
    for name, seconds in measured["short_operator"].items():
        results.add(what=f"short operator, {name.split('_')[0]}, us", reached=seconds * 1e6, datasheet=0.0)


def run_ctest(work, results, select, environment=None):
    report = work.out / "logs" / f"{work.phase}.xml"
    report.unlink(missing_ok=True)
    # On a GPU they share one card: a few at a time.
    jobs = work.arguments.jobs if work.simulate else 4
    code, text = work.run(["ctest", "--test-dir", work.build, *select, "-j", jobs, "--timeout", int(max(30, work.left() / 2)),
                           "--no-tests=error", "--output-on-failure", "--output-junit", report],
                          check=False, environment=environment)
    if not report.exists():  # it was ended, and writes this file last
        ended = re.findall(r"Test +#\d+: (\S+) \.+\s*(\*\*\*)?(Passed|Failed|Timeout|Skipped|Not Run)", text)
        for name, _, result in ended:
            if result != "Passed":
                results.add(failed=name, first=result)
        passed = sum(result == "Passed" for _, _, result in ended)
        raise work.Failure(f"the tests did not end in time; until then {passed} passed, {len(ended) - passed} did not"
                           if code is None else "ctest did not run, or found no tests")
    cases = list(xml.etree.ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None]
    skipped = [case for case in cases if case.find("skipped") is not None]
    results.add(tests=len(cases), passed=len(cases) - len(failed) - len(skipped), skipped=len(skipped), failed=len(failed))
    for case in failed:
        text = (case.findtext("system-out") or "").strip()
        errors = [line for line in text.splitlines() if "ERROR" in line or "CHECK" in line]
        results.add(failed=case.get("name"), first=(errors or text.splitlines()[-1:] or [""])[0][:160])
    return bool(cases) and not failed and code == 0


def tests(work, results):
    select = ["-R", SIMULATED] if work.simulate else ["-L", "cuda"]
    return run_ctest(work, results, select, {"CBTM_CUDASIM": work.simulator[0]} if work.simulate else None)


def model_of(work, shape):
    folder = work.out / "models" / shape
    if not folder.exists():
        write_checkpoint(folder.with_suffix(".partial"), shape).rename(folder)
    return folder


def train_one(work, results, shape, sequence, dropout, kernels=None):
    """`kernels`: an environment that asks for other kernels."""
    rows = 128 if work.simulate else 16384 if shape == "125m" else 8192
    measured = work.cbtm("bench", "train", "--model", model_of(work, shape), "--sequence", sequence, "--micro-batch",
                         rows // sequence, "--dropout", dropout, "--steps", 2 if work.simulate else 10, check=False,
                         environment=kernels)
    named = {"kernels": " ".join(f"{name}={value}" for name, value in kernels.items())} if kernels else {}
    if measured is None:
        return results.add(model=shape, sequence=sequence, dropout=dropout, **named, failed="see the log")
    results.add(model=shape, sequence=sequence, dropout=dropout, precision=measured["precision"], **named,
                **{"tokens/s": measured["tokens_per_second"], "of peak": measured.get("fraction_of_peak", 0.0),
                   "planned GB": measured["planned_bytes"] / 1e9})


def train(work, results):
    # On a Hopper: what its own kernels gain, and that the others are right too.
    if work.simulate or architecture(work) == "90a-real":
        shape, sequence = ("nano", 64) if work.simulate else ("125m", 1024)
        for kernels in ({"CBTM_ATTENTION": "mma"}, {"CBTM_MATMUL": "library"}):
            train_one(work, results, shape, sequence, 0.1, kernels)
    shapes = ["nano"] if work.simulate else ["125m", "1.3b"]
    for shape in shapes:
        for sequence in (64,) if work.simulate else (1024, 2048):
            for dropout in (0.1, 0):
                if work.out_of_time():
                    return
                train_one(work, results, shape, sequence, dropout)


def decode(work, results):
    shape = "nano" if work.simulate else "125m"
    for weights in ("bf16", "int8", "int4"):
        for batch in (1, 2) if work.simulate else (1, 8, 32):
            if work.out_of_time():
                return
            measured = work.cbtm("bench", "decode", "--model", model_of(work, shape), "--weights", weights, "--micro-batch",
                                 batch, "--sequence", 16 if work.simulate else 512, "--steps", 2 if work.simulate else 128,
                                 check=False)
            if measured is None:
                results.add(model=shape, weights=weights, sequences=batch, failed="see the log")
                continue
            results.add(model=shape, weights=weights, sequences=batch,
                        **{"tokens/s": measured["tokens_per_second"], "of bandwidth": measured.get("fraction_of_bandwidth", 0.0),
                           "prompt tokens/s": measured["prompt_tokens_per_second"]})


def operators(work, results):
    program = work.build / "tests/cbtm_bench_operators"
    if not program.exists():
        program = next(work.build.rglob("cbtm_bench_operators"), program)
    command = [*work.simulator, program, "--device", "cuda"]
    command += ["--filter", "gather"] if work.simulate else ["--large"]
    code, text = work.run(command, check=False)
    lines = [cells for cells in (re.split(r"  +", line.strip()) for line in text.splitlines()) if len(cells) >= 3]
    for cells in lines[1:]:
        results.add(**dict(zip(lines[0], cells)))
    if code is None:
        results.add(left_out="the time was up: the cases after these")


def script_rows(work, results, command, pick):
    report = work.out / "logs" / f"{work.phase}-{work.count + 1}.json"
    code, _ = work.run([*command, "--json", report], check=False)
    if code != 0 or not report.exists():
        results.add(script=" ".join(str(word) for word in command[:3]), failed="see the log")
        return
    for row in json.loads(report.read_text())["results"]:
        results.add(**pick(row))


def cluster(work, results):
    sizes = ((2000, 20, 4),) if work.simulate else ((1_000_000, 100, 64), (100_000, 100, 8))
    for points, dimensions, k in sizes:
        measured = work.cbtm("bench", "cluster", "--points", points, "--dimensions", dimensions, "--k", k, "--iterations",
                             2 if work.simulate else 5, check=False)
        if measured is None:
            results.add(points=points, dimensions=dimensions, k=k, failed="see the log")
            continue
        results.add(points=points, dimensions=dimensions, k=k, **{"s an iteration": measured["seconds_per_iteration"],
                                                                  "s in all": measured["seconds"]})


def ensemble(work, results):
    if work.simulate:
        return results.add(skipped="needs a clustering of a corpus, which takes minutes under the simulator")
    script_rows(work, results, [sys.executable, work.root / "scripts/bench/ensemble", "--cbtm", work.build / "bin/cbtm",
                                "--device", "cuda", "--shape", "125m", "--experts", 8, "--rounds", 2],
                lambda row: {name: value for name, value in row.items() if isinstance(value, (int, float, str))})


def torch(work, results):
    code, _ = work.run([work.arguments.torch, "-c", "import torch, sys; sys.exit(not torch.cuda.is_available())"], check=False)
    if code != 0:
        return results.add(skipped="no PyTorch with CUDA is here")
    common = ["--cbtm", work.build / "bin/cbtm", "--device", "cuda", "--torch", work.arguments.torch, "--rounds", 2]
    script_rows(work, results, [sys.executable, work.root / "scripts/bench/train", *common, "--shape", "125m", "--sequence",
                                1024, "--micro-batch", 16],
                lambda row: {"what": "training", "model": row["shape"], "tokens/s": row["tokens_per_second"],
                             "PyTorch": row.get("torch", {}).get("tokens_per_second", 0.0), "ratio": row.get("speed_ratio", 0.0)})
    script_rows(work, results, [sys.executable, work.root / "scripts/bench/decode", *common, "--shape", "125m", "--weights",
                                "bf16", "--micro-batch", 1, 8],
                lambda row: {"what": f"decoding {row['micro_batch']}", "model": row["shape"],
                             "tokens/s": row["tokens_per_second"],
                             "PyTorch": row.get("torch", {}).get("tokens_per_second", 0.0), "ratio": row.get("speed_ratio", 0.0)})


def sanitizers(work, results):
    if work.simulate:
        return results.add(skipped="the simulator has checks of its own")
    if shutil.which("compute-sanitizer", path=work.environment["PATH"]) is None:
        return results.add(skipped="compute-sanitizer is not here")
    passed = True
    for tool in ("memcheck", "racecheck"):
        if work.out_of_time():
            return passed
        passed &= run_ctest(work, results, ["-R", SANITIZED], {"CBTM_SANITIZER_TOOL": tool})
    return passed


PHASES = (
    Phase("machine", 60, "card, driver, programs", machine),
    Phase("build", 420, "cbtm, its CUDA tests and the operators' benchmark, for this card", build),
    Phase("ceilings", 30, "what the card reaches with the plainest work", ceilings),
    Phase("tests", 240, "the CUDA tests", tests),
    Phase("train", 90, "training speed", train),
    Phase("decode", 60, "decoding speed by type of weights and sequences at a time", decode),
    Phase("operators", 90, "every operator's time, bytes and operations a second", operators),
    Phase("cluster", 60, "balanced k-means of a million points", cluster),
    Phase("torch", 120, "the same by PyTorch", torch),
    Phase("ensemble", 120, "scoring with 2 of 8 experts", ensemble),
    Phase("sanitizers", 240, "a part of the tests under compute-sanitizer", sanitizers),
)
