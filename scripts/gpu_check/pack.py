"""The archive of headers and libraries that cbtm is built with, for a machine that has none of Debian's packages."""

import subprocess
import sys
import tarfile
from pathlib import Path

# Header-only, or an archive to link. What cmake/Dependencies.cmake and tests/CMakeLists.txt look for.
HEADERS = ("fmt", "nlohmann", "cxxopts.hpp", "doctest", "hwy", "xxhash.h", "xxh3.h", "zlib.h", "zconf.h", "zstd.h",
           "zstd_errors.h", "zdict.h", "event2", "pcre2.h", "nccl.h")
ARCHIVES = ("libxxhash.a", "libz.a", "libzstd.a", "libevent_core.a", "libpcre2-8.a")


def compiler_folders(flag):
    """Where g++ looks for headers or libraries."""
    if flag == "libraries":
        text = subprocess.run(["g++", "-print-search-dirs"], capture_output=True, text=True, check=True).stdout
        line = next(line for line in text.splitlines() if line.startswith("libraries: ="))
        return [Path(folder) for folder in line.split("=", 1)[1].split(":")]
    text = subprocess.run(["g++", "-xc++", "-E", "-v", "/dev/null"], capture_output=True, text=True, check=True).stderr
    lines = text[text.index("#include <...>"):].splitlines()[1:]
    folders = [Path(line.strip()) for line in lines if line.startswith(" ")]
    return folders + [Path("/usr/local/cuda/include")]


def find(name, folders):
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def write(path):
    include, library = compiler_folders("headers"), compiler_folders("libraries")
    missing = []
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w:gz") as archive:
        for names, folders, inside in ((HEADERS, include, "include"), (ARCHIVES, library, "lib")):
            for name in names:
                found = find(name, folders)
                if found is None:
                    missing.append(name)
                else:
                    archive.add(found.resolve(), f"{inside}/{name}",
                                filter=lambda entry: None if "contrib/sort" in entry.name else entry)
    optional = [name for name in missing if name in ("nccl.h", "xxh3.h")]
    needed = [name for name in missing if name not in optional]
    if needed:
        partial.unlink()
        sys.exit(f"gpu-check --pack: {', '.join(needed)}: not on this machine; run scripts/install-deps.sh first")
    partial.replace(path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB" + (f"; without {', '.join(optional)}" if optional else ""))
    return 0
