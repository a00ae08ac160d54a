"""Clients that nobody here wrote talk to ./cbtm serve: OpenAI's Python client, Prometheus' parser, a browser.

    python clients_check.py BINARY [FOLDER]     exit code 77: this Python has no client at all

What a client is missing for is skipped, with a loud line. FOLDER receives screenshots of the page, to be looked at.
scripts/test-clients makes a Python that has the clients.
"""

import asyncio
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request

SKIPPED = 77
TOPICS = (["flour", "oven", "butter", "knead", "dough", "yeast"], ["comet", "orbit", "planet", "star", "lunar", "eclipse"],
          ["ledger", "audit", "credit", "debit", "budget", "invoice"])
SHAPE = {"model_type": "opt", "vocab_size": 384, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "ffn_dim": 32, "max_position_embeddings": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": True,
         "activation_function": "relu"}


def make_experts(binary, work):
    with open(work / "corpus.jsonl", "w") as file:
        for i in range(240):
            topic = TOPICS[i % 3]
            text = " ".join(topic[(i * 7 + j * (j + i)) % 6] for j in range(20 + i % 9)) + "."
            file.write(json.dumps({"text": text, "id": str(i)}) + "\n")
    (work / "model.json").write_text(json.dumps(SHAPE))
    training = ["--run", "run", "--sequence", "32", "--batch-tokens", "384", "--learning-rate", "1e-2", "--threads", "1"]
    for words in (["cluster", "--corpus", "corpus.jsonl", "--k", "3", "--dimensions", "8", "--vocab-size", "384", "--run",
                   "run", "--threads", "1"],
                  ["train_seed", "--config", "model.json", "--steps", "20", *training],
                  ["train_expert", "--all", "--steps", "10", *training]):
        subprocess.run([binary, *words, "--quiet"], cwd=work, check=True, stdout=subprocess.DEVNULL)


def check_openai(address):
    import openai
    client = openai.OpenAI(base_url=address + "/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()][0] == "ensemble"
    settings = {"model": "ensemble", "max_tokens": 8, "seed": 1, "extra_body": {"ignore_eos": True}}
    whole = client.completions.create(prompt="flour", logprobs=2, echo=True, **settings)
    logprobs = whole.choices[0].logprobs
    assert logprobs.token_logprobs[0] is None and len(logprobs.tokens) == whole.usage.total_tokens
    pieces = client.completions.create(prompt="flour", stream=True, **settings)
    assert "flour" + "".join(event.choices[0].text for event in pieces) == whole.choices[0].text
    messages = [{"role": "user", "content": "comet"}]
    answer = client.chat.completions.create(messages=messages, logprobs=True, top_logprobs=2, **settings)
    events = list(client.chat.completions.create(messages=messages, stream=True, stream_options={"include_usage": True},
                                                 **settings))
    assert "".join(event.choices[0].delta.content for event in events[:-1]) == answer.choices[0].message.content
    assert events[-1].usage == answer.usage
    assert len(client.embeddings.create(model="router", input=["flour", "comet"]).data[1].embedding) == 8
    for error, body in ((openai.NotFoundError, {"model": "none", "prompt": "a"}),
                        (openai.BadRequestError, {"model": "ensemble", "prompt": "a", "temperature": -1}),
                        (openai.UnprocessableEntityError, {"model": "ensemble", "prompt": "a", "suffix": "b"})):
        try:
            client.completions.create(**body)
        except error as got:
            assert got.body["message"], got
        else:
            raise AssertionError(f"{body} was not refused")

    async def many():
        asynchronous = openai.AsyncOpenAI(base_url=address + "/v1", api_key="none")
        replies = await asyncio.gather(*[asynchronous.completions.create(prompt="flour", **settings) for _ in range(50)])
        assert {"flour" + reply.choices[0].text for reply in replies} == {whole.choices[0].text}

    asyncio.run(many())


def check_prometheus(address):
    from prometheus_client.parser import text_string_to_metric_families
    text = urllib.request.urlopen(address + "/metrics").read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["cbtm_tokens_predicted"].samples[0].value > 0
    assert families["cbtm_time_to_first_token_seconds"].type == "histogram"


def check_page(address, folder):
    from playwright.sync_api import sync_playwright
    ended = "document.getElementById('stop').disabled && document.querySelectorAll('#out .token').length > 3"
    with sync_playwright() as playwright:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 700})
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("requestfailed", lambda request: problems.append(request.url))
        page.on("request", lambda request: request.url.startswith(address) or problems.append(request.url))
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")
        page.fill("#tokens", "20")
        page.fill("#prompt", "flour oven")
        page.click("#go")
        page.wait_for_function(ended)
        page.hover("#out .token:nth-of-type(3)")
        assert "%" in page.inner_text("#about") and page.inner_text("#error") == ""
        assert page.evaluate("getComputedStyle(document.querySelector('#out .token')).borderBottomColor") != "rgba(0, 0, 0, 0)"
        if folder:
            page.screenshot(path=folder / "page-light.png")
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size({"width": 400, "height": 800})
        page.click("#chat")
        page.fill("#prompt", "comet orbit")
        page.press("#prompt", "Enter")
        page.wait_for_function(ended)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        if folder:
            page.screenshot(path=folder / "page-dark.png", full_page=True)
        browser.close()
        assert not problems, problems


def main():
    binary = str(pathlib.Path(sys.argv[1]).resolve())
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    checks = []
    for module, check in (("openai", check_openai), ("prometheus_client", check_prometheus), ("playwright", check_page)):
        try:
            __import__(module)
        except ImportError:
            print(f"SKIPPED: no {module} here; scripts/test-clients has it")
            continue
        if module == "playwright" and not (shutil.which("chromium") or shutil.which("google-chrome")):
            print("SKIPPED: no chromium here; the page was not looked at")
            continue
        checks.append((module, check))
    if not checks:
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory() as place:
        work = pathlib.Path(place)
        make_experts(binary, work)
        server = subprocess.Popen([binary, "serve", "--experts", "run/experts", "--port", "0", "--threads", "1", "--log",
                                   "log.jsonl"], cwd=work, stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().split()[-1]
            for module, check in checks:
                check(address, folder) if check is check_page else check(address)
                print(f"{module}: good")
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
        assert code == 0, code


if __name__ == "__main__":
    main()
