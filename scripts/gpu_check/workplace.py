"""Where the phases work: folders, limits of time, and how programs are run."""

import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path


class Workplace:
    class Failure(Exception):
        """What ends a phase, in a line for people."""

    def __init__(self, root, arguments):
        self.root = root
        self.arguments = arguments
        self.simulate = arguments.simulate
        self.out = Path(arguments.out).resolve()
        try:
            (self.out / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SystemExit(f"gpu-check: {self.out}: {error.strerror}; name a folder that can be written with --out") from None
        if "/" in arguments.torch:
            arguments.torch = str(Path(arguments.torch).absolute())
        self.build = self.out / "build"
        self.deadline = time.monotonic() + arguments.budget
        self.phase_deadline = self.deadline
        self.phase = ""
        self.count = 0
        # What the measuring scripts write is theirs while they live, and gone after their phase.
        self.temporary = self.out / "tmp"
        self.environment = {**os.environ, "PATH": os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/local/cuda/bin",
                            "TMPDIR": str(self.temporary)}
        self.simulator = []
        if self.simulate:
            simulator = os.environ.get("CBTM_CUDASIM")
            if not simulator:
                raise SystemExit("gpu-check --simulate: set CBTM_CUDASIM to the simulator's program")
            self.simulator = [simulator]

    def seconds_left(self):
        return self.deadline - time.monotonic()

    def begin_phase(self, name, seconds):
        self.phase = name
        self.count = 0
        self.phase_deadline = time.monotonic() + seconds
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir()

    def left(self):
        return max(1.0, min(self.phase_deadline, self.deadline) - time.monotonic())

    def out_of_time(self):
        return time.monotonic() > min(self.phase_deadline, self.deadline) - 2

    def run(self, command, check=True, environment=None, seconds=None):
        """Runs a program to its end or the phase's; its output goes to a log. Returns (exit code, standard output);
        the code is None if the time was up."""
        self.count += 1
        log = self.out / "logs" / f"{self.phase}-{self.count}.txt"
        command = [str(word) for word in command]
        with open(log, "w") as file:
            file.write(" ".join(command) + "\n")
            file.flush()
            try:
                process = subprocess.Popen(command, cwd=self.root, stdout=subprocess.PIPE, stderr=file, text=True,
                                           env={**self.environment, **(environment or {})}, start_new_session=True)
            except OSError as error:
                if check:
                    raise self.Failure(f"{command[0]}: {error.strerror}; is it on this machine?") from None
                return 127, ""
            try:
                output, _ = process.communicate(timeout=min(self.left(), seconds or 1e9))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                output, _ = process.communicate()
                file.write(output + "\n[ended: the time was up]\n")
                if check:
                    raise self.Failure(f"{Path(command[0]).name}: the time was up; see {log}") from None
                return None, output
            except BaseException:  # Ctrl-C, or a signal: nothing goes on behind our back
                os.killpg(process.pid, signal.SIGKILL)
                raise
            file.write(output)
        if check and process.returncode != 0:
            last = [line for line in log.read_text().splitlines() if line.strip()][-1]
            raise self.Failure(f"{Path(command[0]).name} ended with {process.returncode}: {last[:200]} ({log})")
        return process.returncode, output

    def cbtm(self, *words, check=True, environment=None):
        """Runs the binary that was built and returns what it wrote with --json."""
        binary = self.build / "bin/cbtm"
        if not binary.exists():
            raise self.Failure("cbtm was not built: name the phase build too, or the --out of an earlier run")
        result = self.out / "logs" / f"{self.phase}-{self.count + 1}.json"
        code, _ = self.run([*self.simulator, binary, *words, "--device", "cuda", "--quiet", "--json", result], check,
                           environment)
        return json.loads(result.read_text()) if code == 0 else None

    def unpack_dependencies(self):
        """The folder of the archive; None if there is no archive, and the machine's own packages are taken."""
        archive = Path(self.arguments.deps)
        if not archive.exists():
            return None
        folder = self.out / "deps"
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(archive) as packed:
            packed.extractall(folder)
        return folder
