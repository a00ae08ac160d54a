"""What scripts/deploy holds is put to use: the unit is verified, and streams go through nginx and Caddy.

    python3 deploy_check.py BINARY     exit code 77: neither systemd-analyze nor nginx nor caddy is here

Through nginx with TLS: a stream comes in pieces and whole, a client that goes away ends its texts, and what is only for
this machine is refused to others.
"""

import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request

import made_run

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "scripts/deploy"


def check_unit(binary, work):
    """The unit with this binary and with the credentials' file in place; systemd-analyze prints what it dislikes."""
    unit = work / "cbtm.service"
    unit.write_text((DEPLOY / "cbtm.service").read_text().replace("/usr/local/bin/cbtm", str(binary)))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    said = [line for line in verified.stderr.splitlines() if "cbtm" in line]
    assert verified.returncode == 0 and not said, verified.stderr
    text = unit.read_text()
    seconds = {name: float(re.search(rf"^[^#\n]*{name}(\d+)", text, re.MULTILINE)[1]) for name in ("--drain ", "TimeoutStopSec=")}
    assert seconds["TimeoutStopSec="] > seconds["--drain "] + 3, seconds
    flags = text[text.index("ExecStart="):text.index("ExecReload=")].replace("\\\n", " ").split()
    known = subprocess.run([binary, "serve", "--help"], capture_output=True, text=True).stdout
    for flag in flags:
        assert not flag.startswith("--") or f"  {flag} " in known, f"cbtm serve has no {flag}"
    print("systemd-analyze: the unit is good")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def metric(address, name):
    text = urllib.request.urlopen(f"{address}/metrics").read().decode()
    return float(text.split(f"\n{name} ")[1].split()[0])


def request_of(path, body=b""):
    return f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: models.example.org\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


STREAM = b'{"prompt": ["flour", "comet"], "n": 8, "max_tokens": 120, "ignore_eos": true, "seed": 1, "logprobs": 20, "stream": true}'


def check_nginx(address, work):
    http, https = free_port(), free_port()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                    "/CN=models.example.org", "-keyout", "key.pem", "-out", "cert.pem"], cwd=work, check=True, capture_output=True)
    site = (DEPLOY / "nginx.conf").read_text()
    for text, place in (("127.0.0.1:8080", address.removeprefix("http://")), ("listen 80;", f"listen 127.0.0.1:{http};"),
                        ("listen 443 ssl;", f"listen 127.0.0.1:{https} ssl;"),
                        ("/etc/ssl/certs/models.example.org.pem", str(work / "cert.pem")),
                        ("/etc/ssl/private/models.example.org.key", str(work / "key.pem"))):
        assert text in site, text
        site = site.replace(text, place)
    folders = "".join(f"{kind}_temp_path {work}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (work / "nginx.conf").write_text(f"daemon off; pid {work}/nginx.pid; error_log {work}/error.log; events {{}}\n"
                                     f"http {{ access_log off; {folders}\n{site}\n}}\n")
    command = ["nginx", "-e", str(work / "error.log"), "-p", str(work), "-c", str(work / "nginx.conf")]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    nginx = subprocess.Popen(command)
    try:
        trusted = ssl.create_default_context(cafile=str(work / "cert.pem"))

        def connect():
            for _ in range(100):
                try:
                    return trusted.wrap_socket(socket.create_connection(("127.0.0.1", https), timeout=30),
                                               server_hostname="models.example.org")
                except ConnectionError:
                    time.sleep(0.05)
            raise AssertionError("nginx does not listen")

        with connect() as client:
            client.sendall(request_of("/v1/completions", STREAM))
            pieces = []
            while not pieces or b"[DONE]" not in pieces[-1]:
                pieces.append(client.recv(1 << 20))
                assert pieces[-1], b"".join(pieces)[-300:]
            events = sum(piece.count(b"data: ") for piece in pieces)
            assert len(pieces) > 10 and events > 16, (len(pieces), events)
            assert b"[DONE]" not in b"".join(pieces[:len(pieces) // 2])
        before = metric(address, "cbtm_requests_cancelled_total")
        with connect() as client:
            client.sendall(request_of("/v1/completions", STREAM.replace(b'"n": 8', b'"n": 64')))
            client.recv(4096)
        for _ in range(100):
            if metric(address, "cbtm_requests_cancelled_total") > before:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("a client went away, and its texts went on")
        with connect() as client:
            client.sendall(request_of("/v1/models"))
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        with socket.create_connection(("127.0.0.1", http), timeout=30) as plain:
            plain.sendall(request_of("/v1/models"))
            assert b" 301 " in plain.recv(4096).split(b"\r\n")[0]
        print(f"nginx: a stream came in {len(pieces)} pieces; its client's end reached the server")
    finally:
        nginx.terminate()
        nginx.wait()


def check_caddy():
    checked = subprocess.run(["caddy", "validate", "--adapter", "caddyfile", "--config", str(DEPLOY / "Caddyfile")],
                             capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    print("caddy: the file is valid")


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    here = [name for name in ("systemd-analyze", "nginx", "caddy") if shutil.which(name)]
    for name in {"systemd-analyze", "nginx", "caddy"} - set(here):
        print(f"SKIPPED: no {name} here; scripts/deploy was not tried with it")
    if not here:
        sys.exit(made_run.SKIPPED)
    with tempfile.TemporaryDirectory() as place:
        work = pathlib.Path(place)
        work.chmod(0o755)  # nginx's workers are another user's
        if "systemd-analyze" in here:
            check_unit(binary, work)
        if "caddy" in here:
            check_caddy()
        if "nginx" in here and shutil.which("openssl"):
            made_run.make_experts(binary, work)
            with made_run.serving(binary, work, "--experts", "run/experts", "--parallel", "4") as address:
                check_nginx(address, work)


if __name__ == "__main__":
    main()
