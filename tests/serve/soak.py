"""Random clients against ./cbtm serve for as long as wanted: none of them may lack its answer, and memory stays flat.

    python soak.py BINARY [SECONDS] [SEED]      default: 60 seconds, seed 1

Checks, while everything of soak_actions.py happens at once (all endpoints, streams, clients that go away, close half,
read slowly or never, garbage, mutated JSON, reloads by request and by SIGHUP):
  - each good request is answered 200, each bad one with an error of its own and never 500; the same one always the same
  - what a client saw answered the server has counted, and nothing is open in the end
  - resident memory does not grow: after all clients at once have left their largest replies unread, the median of the
    run's last third is at most that of its first third and 5 % and 8 MiB
  - open files come back to those of the beginning
It talks to 127.0.0.1 alone. Exit code 1: the first failure, in one line.
"""

import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import made_run
import soak_actions

THREADS, TIMEOUT, REST = 6, 3, 0.01
GROWTH, GROWTH_BYTES = 0.05, 8 << 20


def resident_bytes(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise soak_actions.Failure("the server has no memory any more")


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def metrics_of(port):
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30).read().decode()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[:1] not in ("#", "")}


def wait_idle(port):
    """Until nothing is open any more; what is then the server's count of everything."""
    for _ in range(300):
        metrics = metrics_of(port)
        if all(metrics[f"cbtm_{name}"] == 0 for name in ("requests_processing", "requests_deferred", "texts_processing")):
            return metrics
        time.sleep(0.1)
    raise soak_actions.Failure(f"texts are still open 30 seconds after the last client: {metrics}")


def compare_counts(metrics, tally):
    """Everything that a client saw answered was counted; what was counted beside it is of connections that broke."""
    server = 0
    for name, value in metrics.items():
        if name.startswith("cbtm_requests_total"):
            server += value
    for (path, status), seen in tally.answers.items():
        path = "/v1/models" if path.startswith("/v1/models/") else "other" if path == "/nothing" else path
        counted = metrics.get(f'cbtm_requests_total{{path="{path}",status="{status}"}}', 0)
        if counted < seen:
            raise soak_actions.Failure(f"{seen} clients saw {status} at {path}; the server counted {counted:.0f}")
    seen = sum(tally.answers.values())
    own = 400  # metrics_of's own requests, at most
    if not seen <= server <= seen + tally.broken + own:
        raise soak_actions.Failure(f"{seen} answers seen, {tally.broken} connections broken, {server:.0f} requests counted")


def check_memory(samples):
    third = max(1, len(samples) // 3)
    early, late = statistics.median(samples[:third]), statistics.median(samples[-third:])
    bound = early * (1 + GROWTH) + GROWTH_BYTES
    print(f"memory: {early / 2**20:.1f} MiB in the first third, {late / 2**20:.1f} in the last, {max(samples) / 2**20:.1f} at "
          f"most; {len(samples)} samples")
    if late > bound:
        raise soak_actions.Failure(f"memory grew from {early / 2**20:.1f} to {late / 2**20:.1f} MiB; the bound is {bound / 2**20:.1f}")


def soak(binary, work, seconds, seed):
    command = [str(binary), "serve", "--experts", "run/experts", "--port", "0", "--threads", "1", "--quiet", "--parallel",
               "8", "--queue", "24", "--timeout", str(TIMEOUT), "--log", os.devnull]
    server = subprocess.Popen(command, cwd=work, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        if not line:
            raise soak_actions.Failure(f"the server ended with status {server.wait()}")
        port, tally, failures, samples = int(line.rsplit(":", 1)[1]), soak_actions.Tally(), [], []
        clients = soak_actions.Clients(port, tally, TIMEOUT)
        files = open_files(server.pid)
        # What the allocator keeps of the largest replies, it has from here on.
        warm = [threading.Thread(target=clients.reads_nothing, args=(random.Random(seed),)) for _ in range(THREADS)]
        for thread in warm:
            thread.start()
        for thread in warm:
            thread.join()
        until = time.monotonic() + seconds
        threads = [threading.Thread(target=soak_actions.work, args=(clients, f"{seed} {number}", until, REST, failures))
                   for number in range(THREADS)]
        for thread in threads:
            thread.start()
        next_signal = time.monotonic() + 5
        while any(thread.is_alive() for thread in threads):
            if server.poll() is not None:
                raise soak_actions.Failure(f"the server ended with status {server.returncode}; {failures}")
            samples.append(resident_bytes(server.pid))
            if time.monotonic() > next_signal:
                server.send_signal(signal.SIGHUP)
                next_signal += 10
            time.sleep(0.25)
        if failures:
            raise soak_actions.Failure(failures[0])
        metrics = wait_idle(port)
        compare_counts(metrics, tally)
        time.sleep(TIMEOUT + 1)  # connections that nobody uses are closed by then
        if open_files(server.pid) > files + 2:
            raise soak_actions.Failure(f"{open_files(server.pid)} files are open; {files} were at the beginning")
        clients.probe(None)
        print(f"{sum(tally.answers.values())} requests answered in {seconds:.0f} seconds, {metrics['cbtm_reloads_total']:.0f} "
              f"reloads, {metrics['cbtm_requests_cancelled_total']:.0f} cancelled; "
              + ", ".join(f"{name} {count}" for name, count in sorted(tally.actions.items())))
        check_memory(samples)
        missing = [name for name in soak_actions.ACTIONS if name not in tally.actions]
        if missing and seconds >= 60:
            raise soak_actions.Failure(f"never happened: {', '.join(missing)}")
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    if code != 0:
        raise soak_actions.Failure(f"the server ended with status {code}")


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 60
    seed = sys.argv[3] if len(sys.argv) > 3 else "1"
    with tempfile.TemporaryDirectory() as place:
        work = pathlib.Path(place)
        made_run.make_experts(binary, work)
        try:
            soak(binary, work, seconds, seed)
        except soak_actions.Failure as failure:
            sys.exit(f"soak: seed {seed}: {failure}")


if __name__ == "__main__":
    main()
