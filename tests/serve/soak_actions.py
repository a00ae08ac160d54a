"""What the clients of soak.py do to a server: everything that clients do, good and bad. Sockets by hand, so that they can
be closed half, early, or never be read."""

import json
import random
import socket
import struct
import threading
import time
from collections import Counter

DEADLINE = 60  # seconds within which a request must have its answer; the longest ones take one
BAD_REQUEST = {400, 404, 405, 413, 422, 429}
PROMPTS = ["flour oven", "comet", "ledger audit credit", "na\u00efve \u4f60\u597d \U0001f680", "</s> star", "a" * 60]


class Failure(Exception):
    pass


class Tally:
    """What the clients saw, by all threads."""

    def __init__(self):
        self.lock = threading.Lock()
        self.actions, self.answers, self.broken = Counter(), Counter(), 0

    def answered(self, path, status):
        with self.lock:
            self.answers[path, status] += 1

    def count(self, action):
        with self.lock:
            self.actions[action] += 1

    def break_off(self):
        """A connection that the client itself breaks: its request may be counted by the server, or not."""
        with self.lock:
            self.broken += 1


class Connection:
    def __init__(self, port, receive_buffer=None):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(("127.0.0.1", port))
        self.held = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def reset(self):
        """Closes with a reset instead of an end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def send(self, method, path, body=b"", headers=""):
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
                            .encode() + body)

    def more(self):
        data = self.socket.recv(65536)
        self.held += data
        return bool(data)

    def until(self, mark):
        while mark not in self.held:
            if not self.more():
                raise Failure(f"the connection ended before {mark!r}; so far: {self.held[:300]!r}")
        taken, self.held = self.held.split(mark, 1)
        return taken

    def exactly(self, count):
        while len(self.held) < count:
            if not self.more():
                raise Failure("the connection ended within a body")
        taken, self.held = self.held[:count], self.held[count:]
        return taken

    def answer(self, head_only=False, pause=None):
        """Status and body of one reply; `pause` is called before each chunk of a stream."""
        lines = self.until(b"\r\n\r\n").decode().split("\r\n")
        status = int(lines[0].split()[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if head_only or status in (204, 304):
            return status, b""
        if headers.get("transfer-encoding") != "chunked":
            return status, self.exactly(int(headers.get("content-length", "0")))
        body = b""
        while size := int(self.until(b"\r\n"), 16):
            if pause:
                pause()
            body += self.exactly(size)
            self.exactly(2)
        self.exactly(2)
        return status, body


def texts_of_stream(body):
    """The texts of a stream by choice; the stream must be whole."""
    events = [event for event in body.decode().split("\n\n") if event and not event.startswith(":")]
    if not events or events[-1] != "data: [DONE]":
        raise Failure(f"a stream without its end: {body[-300:]!r}")
    texts = Counter()
    for event in events[:-1]:
        data = json.loads(event[6:])
        if "error" in data:
            raise Failure(f"a stream failed: {data}")
        for choice in data["choices"]:
            texts[choice["index"]] = (texts[choice["index"]] or "") + (choice.get("text") or "")
    return texts


def good_body(random_, chat=False):
    """A request that must succeed, of any of the fields."""
    body = {"max_tokens": random_.randrange(1, 40), "seed": random_.randrange(1000)}
    if chat:
        body["messages"] = [{"role": "user", "content": random_.choice(PROMPTS[:5])}]
    else:
        body["prompt"] = random_.choice([random_.choice(PROMPTS), random_.sample(PROMPTS, 3), [5, 6, 7], [[8, 9], [10]]])
    choices = {"temperature": [0, 0.5, 1, 1.7], "top_p": [0.5, 0.9], "top_k": [1, 5, -1], "n": [1, 2, 3],
               "presence_penalty": [0.5], "frequency_penalty": [-0.5], "repetition_penalty": [1.2], "ignore_eos": [True],
               "stop": [".", ["oven", "orbit"]], "logit_bias": [{"5": -100}, {"7": 5}], "user": ["somebody"],
               "x_cbtm": [{"topk": 1}, {"topk": "all", "weights": True}, {"routing": "lagged"}, {"experts": ["001"]}]}
    choices |= {"logprobs": [True]} if chat else {"logprobs": [0, 3], "echo": [True]}
    for name in random_.sample(sorted(choices), random_.randrange(5)):
        body[name] = random_.choice(choices[name])
    return body


def mutated(random_, body):
    """A body that may mean anything: values of other types, removed and repeated parts, broken bytes."""
    values = [None, True, -1, 0, 1e308, -1e400, 2**63, 2**64, 1.5, "", "a", "\u0000", "\ud800", [], [[]], [[[]]], {}, [{}],
              ["a", 1], [None], [-1], [10**9], {"a": 1}, {"type": "json"}, "x" * 5000, list(range(300))]
    names = list(body) + ["suffix", "best_of", "tools", "stream_options", "min_p", "top_logprobs", "max_completion_tokens",
                          "model", "nobody_knows_this", "response_format"]
    for _ in range(random_.randrange(1, 4)):
        name = random_.choice(names)
        if random_.random() < 0.3 and isinstance(body.get(name), dict) and body[name]:
            body[name] = dict(body[name], **{random_.choice([*body[name], "new"]): random_.choice(values)})
        elif random_.random() < 0.15:
            body.pop(name, None)
        else:
            body[name] = random_.choice(values)
    if isinstance(body.get("n"), int) and body["n"] > 8:
        body["n"] = 8
    text = bytearray(json.dumps(body).encode())
    if random_.random() < 0.5:
        for _ in range(random_.randrange(1, 6)):
            place = random_.randrange(len(text) + 1)
            kind = random_.randrange(4)
            if kind == 0:
                text[place:place + random_.randrange(1, 9)] = b""
            elif kind == 1:
                text[place:place] = bytes([random_.randrange(256)])
            elif kind == 2:
                text[place:place] = random_.choice([b"[" * 100, b"{\"a\":", b"\"", b",", b"null", b"\\u", b"1e999", b"\xff\xfe"])
            else:
                begin = random_.randrange(len(text) + 1)
                text[place:place] = text[begin:begin + 20]
    return bytes(text)


class Clients:
    """The actions. Each takes a generator of random numbers, and raises Failure if the server does wrong."""

    def __init__(self, port, tally, timeout):
        self.port, self.tally, self.timeout = port, tally, timeout
        self.expected = None
        status, body = self.ask("POST", "/v1/completions", self.probe_body())
        if status != 200:
            raise Failure(f"the first request was answered {status}: {body[:300]!r}")
        self.expected = json.loads(body)["choices"]

    def ask(self, method, path, body=None, pause=None, receive_buffer=None, patient=True):
        """One request on a connection of its own. A full queue (429) is asked again, as clients do."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        begin = time.monotonic()
        while True:
            with Connection(self.port, receive_buffer) as connection:
                connection.send(method, path, data)
                status, reply = connection.answer(method == "HEAD", pause)
            self.tally.answered(path, status)
            if status != 429 or not patient or time.monotonic() - begin > DEADLINE:
                return status, reply
            time.sleep(0.05)

    def expect(self, status, wanted, what, reply):
        if status not in wanted:
            raise Failure(f"{what}: {status}, not {sorted(wanted)}: {reply[:300]!r}")

    @staticmethod
    def probe_body():
        return {"prompt": ["flour", "comet"], "max_tokens": 12, "seed": 7, "n": 2, "logprobs": 1, "ignore_eos": True}

    def probe(self, random_):
        status, reply = self.ask("POST", "/v1/completions", self.probe_body())
        self.expect(status, {200}, "the probe", reply)
        if json.loads(reply)["choices"] != self.expected:
            raise Failure(f"the probe's answer changed: {reply[:500]!r}")

    def completion(self, random_):
        body = good_body(random_)
        status, reply = self.ask("POST", "/v1/completions", body)
        self.expect(status, {200}, json.dumps(body), reply)
        prompts = len(body["prompt"]) if isinstance(body["prompt"], list) and not isinstance(body["prompt"][0], int) else 1
        if len(json.loads(reply)["choices"]) != prompts * body.get("n", 1):
            raise Failure(f"{json.dumps(body)}: {reply[:300]!r}")

    def chat(self, random_):
        body = good_body(random_, chat=True)
        status, reply = self.ask("POST", "/v1/chat/completions", body)
        self.expect(status, {200}, json.dumps(body), reply)

    def stream(self, random_):
        """The same request streamed and whole has the same texts."""
        body = good_body(random_)
        status, whole = self.ask("POST", "/v1/completions", body)
        self.expect(status, {200}, json.dumps(body), whole)
        status, reply = self.ask("POST", "/v1/completions", body | {"stream": True})
        self.expect(status, {200}, json.dumps(body), reply)
        texts = texts_of_stream(reply)
        for choice in json.loads(whole)["choices"]:
            if (texts[choice["index"]] or "") != choice["text"]:
                raise Failure(f"{json.dumps(body)}: streamed {texts[choice['index']]!r}, whole {choice['text']!r}")

    def small(self, random_):
        """The endpoints that answer at once."""
        method, path, body, wanted = random_.choice([
            ("GET", "/", None, 200), ("GET", "/health", None, 200), ("GET", "/v1/models", None, 200),
            ("GET", "/v1/models/ensemble", None, 200), ("GET", "/v1/models/none", None, 404), ("GET", "/v1/experts", None, 200),
            ("GET", "/metrics", None, 200), ("GET", "/tokenizer_info", None, 200), ("HEAD", "/v1/models", None, 200),
            ("OPTIONS", "/v1/completions", None, 204), ("POST", "/tokenize", {"prompt": "flour"}, 200),
            ("POST", "/detokenize", {"tokens": [5, 6]}, 200), ("POST", "/v1/embeddings", {"input": ["flour", "star"]}, 200),
            ("GET", "/nothing", None, 404), ("DELETE", "/v1/models", None, 405)])
        status, reply = self.ask(method, path, body)
        self.expect(status, {wanted}, f"{method} {path}", reply)

    def mutation(self, random_):
        path = random_.choice(["/v1/completions"] * 4 + ["/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"])
        base = {"/v1/embeddings": {"input": ["a", "b"]}, "/tokenize": {"prompt": "a"}, "/detokenize": {"tokens": [5]}}
        body = base.get(path) or good_body(random_, chat="chat" in path)
        data = mutated(random_, dict(body, max_tokens=8))
        status, reply = self.ask("POST", path, data, patient=False)
        self.expect(status, BAD_REQUEST | {200}, f"{path} {data!r}", reply)
        if status == 200 and reply.startswith(b"data:"):
            texts_of_stream(reply)

    def abort(self, random_):
        """Goes away: at once, in the middle of a stream, or while the answer is made."""
        self.tally.break_off()
        body = {"prompt": ["flour"] * random_.randrange(1, 12), "max_tokens": 100, "ignore_eos": True,
                "stream": random_.random() < 0.7}
        with Connection(self.port) as connection:
            connection.send("POST", "/v1/completions", json.dumps(body).encode())
            if body["stream"] and random_.random() < 0.7:
                connection.until(b"\r\n\r\n")
            else:
                time.sleep(random_.random() * 0.05)
            if random_.random() < 0.5:
                connection.reset()

    def half_close(self, random_):
        """Closes its own side: it is taken to be gone, and the server closes, too."""
        self.tally.break_off()
        with Connection(self.port) as connection:
            connection.send("POST", "/v1/completions", json.dumps({"prompt": "flour", "max_tokens": 60}).encode())
            connection.socket.shutdown(socket.SHUT_WR)
            while connection.more():
                pass

    def slow_reader(self, random_):
        """Reads a long stream with pauses; nothing of it may be missing."""
        body = {"prompt": ["comet"] * 4, "n": 4, "max_tokens": 100, "ignore_eos": True, "stream": True, "logprobs": 20}
        left = [1.5]

        def pause():
            if left[0] > 0:
                left[0] -= 0.02
                time.sleep(0.02)

        status, reply = self.ask("POST", "/v1/completions", body, pause, receive_buffer=4096)
        self.expect(status, {200}, "a slow reader", reply)
        if len(texts_of_stream(reply)) != 16:
            raise Failure("a slow reader did not get all texts")

    def reads_nothing(self, random_):
        """Asks for much and never reads: within --timeout and a moment it has lost its connection."""
        self.tally.break_off()
        body = {"prompt": ["comet"] * 16, "n": 4, "max_tokens": 100, "ignore_eos": True, "stream": True, "logprobs": 50}
        with Connection(self.port, receive_buffer=2048) as connection:
            connection.send("POST", "/v1/completions", json.dumps(body).encode())
            time.sleep(self.timeout + 2)
            connection.reset()

    def unfinished(self, random_):
        """Sends half a request and waits: 408, or the connection's end, within --timeout and a moment."""
        whole = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n{\"prompt\": "
        self.tally.break_off()
        with Connection(self.port) as connection:
            connection.socket.sendall(whole[:random_.randrange(1, len(whole))])
            begin = time.monotonic()
            connection.socket.settimeout(self.timeout + 10)
            try:
                while connection.more():
                    pass
            except TimeoutError:
                raise Failure(f"half a request was still waited for after {time.monotonic() - begin:.0f} s") from None

    def garbage(self, random_):
        """No HTTP at all, or HTTP that lies: an error and the end of the connection."""
        self.tally.break_off()
        data = random_.choice([
            random_.randbytes(random_.randrange(1, 3000)) + b"\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
            b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"b" * 70000 + b"\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 9])
        with Connection(self.port) as connection:
            try:
                connection.socket.sendall(data)
                connection.socket.shutdown(socket.SHUT_WR)
                while connection.more():
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass  # it need not read what it has refused
        if connection.held and not connection.held.startswith(b"HTTP/1.1 "):
            raise Failure(f"an answer that is no HTTP: {connection.held[:100]!r}")

    def many_on_one(self, random_):
        """Several requests on one connection, sent before any is answered; answers come in order."""
        prompts = [random_.choice(PROMPTS[:3]) for _ in range(5)]
        with Connection(self.port) as connection:
            for prompt in prompts:
                connection.send("POST", "/tokenize", json.dumps({"prompt": prompt}).encode())
            for prompt in prompts:
                status, reply = connection.answer()
                self.tally.answered("/tokenize", status)
                self.expect(status, {200}, "one of several", reply)
                with_id = json.loads(reply)["tokens"]
                _, text = self.ask("POST", "/detokenize", {"tokens": with_id[1:]})
                if json.loads(text)["prompt"] != prompt:
                    raise Failure(f"answers out of order: {reply!r} for {prompt}")

    def reload(self, random_):
        status, reply = self.ask("POST", "/v1/experts/reload")
        self.expect(status, {200}, "a reload", reply)


# How often each is done, in parts.
ACTIONS = {"probe": 8, "completion": 20, "chat": 8, "stream": 10, "small": 20, "mutation": 30, "abort": 8, "half_close": 3,
           "slow_reader": 1, "reads_nothing": 0.1, "unfinished": 0.5, "garbage": 6, "many_on_one": 4, "reload": 0.5}


def work(clients, seed, until, rest, failures):
    """One thread: random actions until the time is up, or somebody has failed."""
    random_ = random.Random(seed)
    while time.monotonic() < until and not failures:
        name = random_.choices(list(ACTIONS), ACTIONS.values())[0]
        try:
            getattr(clients, name)(random_)
            clients.tally.count(name)
        except Exception as error:  # the first failure ends the run, with what was done
            failures.append(f"{name}: {type(error).__name__}: {error}")
        time.sleep(rest)
