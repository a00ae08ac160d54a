"""Kernel names: what a template's instance is called by the compiler, the simulator and a profiler, made one."""

import subprocess

_NOISE = ("(anonymous namespace)::", "<unnamed>::", "cbtm::cuda::", "cbtm::", "void ")


def instance(name):
    """A demangled name without namespaces, result type and parameters: 'adamw_flat<bf16>'."""
    for noise in _NOISE:
        name = name.replace(noise, "")
    depth = 0
    for place, letter in enumerate(name):  # the parameters begin at the first ( outside of <>
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            name = name[:place]
            break
    return name.replace("(int)", "").replace("(bool)1", "true").replace("(bool)0", "false").strip()


def family(name):
    """The name of the template."""
    return instance(name).split("<")[0]


def of_library(name):
    return "cub::" in name or "cublas" in name.lower() or "gemm" in name.lower()


def demangled(names):
    """{mangled: demangled} by c++filt."""
    names = sorted(set(names))
    text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    return dict(zip(names, text.splitlines()))
