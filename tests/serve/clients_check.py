"""Clients that nobody here wrote talk to ./cbtm serve: OpenAI's Python client, LangChain, Prometheus' parser, a browser.

    python clients_check.py BINARY [FOLDER]     exit code 77: this Python has no client at all

What a client is missing for is skipped, with a loud line. FOLDER receives screenshots of the page, to be looked at.
scripts/test-clients makes a Python that has the clients.
"""

import asyncio
import pathlib
import shutil
import sys
import tempfile
import urllib.request

import made_run

def tokens_of(usage):
    """Without how much of the prompt was known, which depends on what was asked before."""
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


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
    assert tokens_of(events[-1].usage) == tokens_of(answer.usage)
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
        async with openai.AsyncOpenAI(base_url=address + "/v1", api_key="none") as asynchronous:
            replies = await asyncio.gather(*[asynchronous.completions.create(prompt="flour", **settings) for _ in range(50)])
        assert {"flour" + reply.choices[0].text for reply in replies} == {whole.choices[0].text}

    asyncio.run(many())


def check_openai_refusals(address, key):
    """A server with a key, one place and a queue of one request: what the client makes of 401 and 429."""
    import openai
    url = address + "/v1"
    try:
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()
    except openai.AuthenticationError as got:
        assert got.body["code"] == 401, got
    else:
        raise AssertionError("a wrong key was taken")
    work = {"model": "ensemble", "prompt": ["flour"] * 8, "max_tokens": 100, "extra_body": {"ignore_eos": True}}

    async def crowd(retries):
        async with openai.AsyncOpenAI(base_url=url, api_key=key, max_retries=retries) as client:
            return await asyncio.gather(*[client.completions.create(**work) for _ in range(12)], return_exceptions=True)

    replies = asyncio.run(crowd(0))
    refused = [reply for reply in replies if isinstance(reply, openai.RateLimitError)]
    assert refused and len(refused) < len(replies), replies
    assert all(reply.response.headers["retry-after"] == "1" and reply.body["code"] == 429 for reply in refused)
    assert all(len(reply.choices) == 8 for reply in replies if reply not in refused)
    # With retries everybody is served in the end: the client waits for as long as Retry-After says.
    assert all(len(reply.choices) == 8 for reply in asyncio.run(crowd(30)))


def check_langchain(address):
    import langchain_openai
    settings = {"model": "ensemble", "base_url": address + "/v1", "api_key": "none", "max_tokens": 8, "seed": 1,
                "max_retries": 0}
    text = langchain_openai.OpenAI(**settings, extra_body={"ignore_eos": True})
    whole = text.invoke("flour")
    assert whole and "".join(text.stream("flour")) == whole
    assert text.batch(["flour", "comet"])[0] == whole
    chat = langchain_openai.ChatOpenAI(**settings, extra_body={"ignore_eos": True}, stream_usage=True)
    messages = [("system", "bake"), ("human", "comet")]
    answer = chat.invoke(messages)
    pieces = list(chat.stream(messages))
    assert "".join(piece.content for piece in pieces) == answer.content
    assert answer.usage_metadata["output_tokens"] == 8
    assert sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata) == 8
    scored = chat.bind(logprobs=True, top_logprobs=2).invoke(messages).response_metadata["logprobs"]["content"]
    assert len(scored) == 8 and scored[0]["logprob"] < 0

    async def streamed():
        return "".join([piece.content async for piece in chat.astream(messages)])

    assert asyncio.run(streamed()) == answer.content
    vectors = langchain_openai.OpenAIEmbeddings(model="router", base_url=address + "/v1", api_key="none",
                                                check_embedding_ctx_length=False).embed_documents(["flour", "comet"])
    assert [len(vector) for vector in vectors] == [8, 8]


def check_prometheus(address):
    from prometheus_client.parser import text_string_to_metric_families
    text = urllib.request.urlopen(address + "/metrics").read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["cbtm_tokens_predicted"].samples[0].value > 0
    assert families["cbtm_time_to_first_token_seconds"].type == "histogram"


def wait_until(page, condition):
    """As wait_for_function, which the page's Content-Security-Policy refuses: it wants eval."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"the page never came to: {condition}")


def ask_page(page, text, press_enter=False):
    """A text, or a message, and its answer; again where a random text ends at once."""
    for _ in range(20):
        page.fill("#prompt", text)
        page.press("#prompt", "Enter") if press_enter else page.click("#go")
        wait_until(page, "document.getElementById('stop').disabled")
        assert page.inner_text("#error") == "", page.inner_text("#error")
        if page.evaluate("document.querySelectorAll('#out .token').length") > 3:
            assert "tokens" in page.inner_text("#state")
            return
    raise AssertionError("no text of more than three tokens in 20 tries")


def check_page(address, folder):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 700})
        problems = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        # Chromium calls a stream aborted, too, whose reader has come to the end before the network's side says so.
        page.on("requestfailed", lambda request: request.failure == "net::ERR_ABORTED" or
                problems.append(f"{request.url}: {request.failure}"))
        page.on("request", lambda request: request.url.startswith(address) or problems.append(request.url))
        page.goto(address)
        page.wait_for_selector("#model option", state="attached")
        assert not page.is_visible("#key")
        page.fill("#tokens", "20")
        ask_page(page, "flour oven")
        page.hover("#out .token:nth-of-type(3)")
        assert "%" in page.inner_text("#about")
        assert page.evaluate("getComputedStyle(document.querySelector('#out .token')).borderBottomColor") != "rgba(0, 0, 0, 0)"
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for name, width, height in (("desktop", 1100, 700), ("phone", 390, 844)):
                page.set_viewport_size({"width": width, "height": height})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                if folder:
                    page.screenshot(path=folder / f"page-{name}-{scheme}.png", full_page=True)
        page.select_option("#model", "expert-001")
        assert not page.is_visible("#topk") and page.is_visible("#experts")
        ask_page(page, "ledger")
        page.select_option("#model", "ensemble")
        page.click("#chat")
        ask_page(page, "comet orbit", press_enter=True)
        # A message that is refused is taken back: the chat goes on with another one.
        page.fill("#prompt", "star " * 300)
        page.click("#go")
        wait_until(page, "document.getElementById('error').textContent !== ''")
        assert page.input_value("#prompt").startswith("star")
        page.click("#clear")
        ask_page(page, "comet", press_enter=True)
        if folder:
            page.screenshot(path=folder / "page-chat.png", full_page=True)
        browser.close()
        assert not problems, problems


def check_page_with_key(address, key):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#key", state="visible")
        assert "API key" in page.inner_text("#error")
        page.fill("#key", key)
        page.press("#key", "Tab")
        page.wait_for_selector("#model option", state="attached")
        ask_page(page, "flour")
        browser.close()


def chromium():
    return shutil.which("chromium") or shutil.which("google-chrome")


def main():
    binary = pathlib.Path(sys.argv[1]).resolve()
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else None
    checks = []
    for module, check in (("openai", check_openai), ("langchain_openai", check_langchain),
                          ("prometheus_client", check_prometheus), ("playwright", check_page)):
        try:
            __import__(module)
        except ImportError:
            print(f"SKIPPED: no {module} here; scripts/test-clients has it")
            continue
        if module == "playwright" and not chromium():
            print("SKIPPED: no chromium here; the page was not looked at")
            continue
        checks.append((module, check))
    if not checks:
        sys.exit(made_run.SKIPPED)
    with tempfile.TemporaryDirectory() as place:
        work = pathlib.Path(place)
        made_run.make_experts(binary, work)
        with made_run.serving(binary, work, "--experts", "run/experts") as address:
            for module, check in checks:
                check(address, folder) if check is check_page else check(address)
                print(f"{module}: good", flush=True)
        if checks[0][1] is check_openai:
            (work / "keys").write_text("# of this test\nsesame\n")
            with made_run.serving(binary, work, "--experts", "run/experts", "--api-key-file", "keys", "--parallel", "1",
                                  "--queue", "1") as address:
                check_openai_refusals(address, "sesame")
                print("openai, keys and a full queue: good", flush=True)
                if checks[-1][1] is check_page:
                    check_page_with_key(address, "sesame")
                    print("playwright, with a key: good", flush=True)


if __name__ == "__main__":
    main()
