"""Clients of a server with OpenAI's completions: a closed loop over streams, timed at each event. Standard library only.

Each client has one connection and sends its next request when the last one has ended. All of them run in one thread of
this process; their work for a token is to read a line and to look at the clock.
"""

import asyncio
import json
import random
import statistics
import time
from urllib.parse import urlsplit

# Log-normal lengths, cut off at both ends: most are short, some are long, as in what people send.
PROMPT_TOKENS = {"median": 64, "sigma": 0.8, "least": 8, "most": 512}
NEW_TOKENS = {"median": 48, "sigma": 0.6, "least": 8, "most": 160}


def requests_of(count, vocabulary, seed):
    """`count` requests: token ids of a prompt, and how many tokens to generate."""
    generator = random.Random(seed)

    def length(of):
        return round(min(max(of["median"] * generator.lognormvariate(0, of["sigma"]), of["least"]), of["most"]))

    return [{"prompt": [generator.randrange(3, vocabulary - 1) for _ in range(length(PROMPT_TOKENS))],
             "max_tokens": length(NEW_TOKENS)} for _ in range(count)]


class Client:
    def __init__(self, address):
        self.host, self.port = urlsplit(address).hostname, urlsplit(address).port
        self.reader = self.writer = None

    async def _chunks(self):
        while True:
            size = int(await self.reader.readline(), 16)
            data = await self.reader.readexactly(size)
            await self.reader.readexactly(2)
            if size == 0:
                return
            yield data

    async def stream(self, body):
        """Sends one request; returns its tokens and the times of its events, the first of which is that of sending."""
        text = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}, "temperature": 0,
                                  "ignore_eos": True}).encode()
        request = (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                   b"Content-Length: %d\r\n\r\n" % len(text) + text)
        while True:
            used = self.writer is not None
            if not used:
                self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=1 << 22)
            times = [time.perf_counter()]
            self.writer.write(request)
            try:
                status = await self.reader.readline()
            except ConnectionError:
                status = b""
            if status or not used:
                break
            self.close()  # the server has closed a connection that was used before: a new one is made
            self.writer = None
        while (await self.reader.readline()).strip():
            pass
        if b" 200 " not in status:
            raise RuntimeError(f"{status.decode().strip()}: {(await self.reader.read(2000)).decode()}")
        held, tokens = b"", None
        async for chunk in self._chunks():
            now = time.perf_counter()
            *events, held = (held + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
            for event in events:
                if not event.startswith(b"data: {"):
                    continue
                if b'"usage":{' in event:
                    tokens = json.loads(event[6:])["usage"]["completion_tokens"]
                if b'"choices":[{' in event:
                    times.append(now)
        if tokens is None:
            raise RuntimeError("a stream ended without its usage")
        return tokens, times

    def close(self):
        if self.writer is not None:
            self.writer.close()


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def closed_loop(address, model, clients, requests):
    """All `requests` by so many clients at once; figures of the whole."""
    waiting = list(reversed(requests))
    done = []

    async def one():
        client = Client(address)
        while waiting:
            request = waiting.pop()
            done.append((request, *await client.stream(request | {"model": model})))
        client.close()

    async def all_of_them():
        await asyncio.gather(*[one() for _ in range(clients)])

    begin = time.perf_counter()
    asyncio.run(all_of_them())
    seconds = time.perf_counter() - begin
    for request, tokens, _ in done:
        if tokens != request["max_tokens"]:
            raise RuntimeError(f"{tokens} tokens came where {request['max_tokens']} were asked for")
    gaps = [b - a for _, _, times in done for a, b in zip(times[1:], times[2:])]
    first = [times[1] - times[0] for _, _, times in done]
    tokens = sum(tokens for _, tokens, _ in done)
    return {"clients": clients, "requests": len(done), "seconds": seconds, "tokens": tokens,
            "prompt_tokens": sum(len(request["prompt"]) for request, _, _ in done), "tokens_per_second": tokens / seconds,
            "first_p50": statistics.median(first), "first_p95": percentile(first, 0.95),
            "between_p50": statistics.median(gaps), "between_p95": percentile(gaps, 0.95)}


def time_to_first(address, model, prompt):
    """Seconds until the first token of one request."""
    async def one():
        client = Client(address)
        _, times = await client.stream({"model": model, "prompt": prompt, "max_tokens": 2})
        client.close()
        return times[1] - times[0]

    return asyncio.run(one())
