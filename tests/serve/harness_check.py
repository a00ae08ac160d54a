"""lm-evaluation-harness asks ./cbtm serve and reads the same checkpoint with transformers: the results must be equal.

    python harness_check.py BINARY     exit code 77: this Python has no lm_eval, torch or transformers

The tasks of tests/serve/tasks (multiple choice, with and without examples before it, last word, perplexity, generation)
run over the model types local-completions and gguf, and over hf on the files that cbtm wrote. Log-likelihoods are
compared document by document, answers exactly. The mixture of two experts, which transformers cannot compute, is
compared with cbtm ensemble evaluate.
"""

import contextlib
import json
import os
import pathlib
import sys
import tempfile
import urllib.request

import made_run

for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[variable] = "1"  # everything is in local files
os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")
TASKS = pathlib.Path(__file__).resolve().parent / "tasks"
CONTEXT = made_run.SHAPE["max_position_embeddings"]
# Both sides compute in float32: a token's log-probability differs by some 1e-6. The harness adds them up in float32 on
# hf's side, so that a sum of thousands is rounded by more; that part grows with the sum.
ABSOLUTE, RELATIVE = 1e-4, 2.0**-22
ALL = ("topics_choice", "topics_fewshot", "topics_last_word", "topics_perplexity", "topics_generate")


def evaluate(model, arguments, tasks):
    """For each task: the answers of each document in the order of documents, and the task's metrics."""
    import lm_eval
    import lm_eval.tasks
    with contextlib.chdir(TASKS):  # where the tasks' files are named from
        result = lm_eval.simple_evaluate(
            model=model, model_args=arguments, tasks=list(tasks), bootstrap_iters=0, log_samples=True,
            task_manager=lm_eval.tasks.TaskManager(include_path=str(TASKS), include_defaults=False))
    answers = {}
    for task in tasks:
        samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
        answers[task] = [[response[0] for response in sample["resps"]] for sample in samples]
    return answers, {task: {name: value for name, value in result["results"][task].items() if isinstance(value, float)}
                     for task in tasks}


def near(a, b):
    return abs(a - b) <= ABSOLUTE + RELATIVE * max(abs(a), abs(b))


def compare(what, ours, theirs):
    largest = 0.0
    for task, documents in theirs[0].items():
        assert len(ours[0][task]) == len(documents) > 0, (what, task)
        for place, (mine, reference) in enumerate(zip(ours[0][task], documents, strict=True)):
            where = f"{what}, {task}, document {place}: {mine} and {reference}"
            for a, b in zip(mine, reference, strict=True):
                if isinstance(b, str):
                    assert a == b, where
                    continue
                (a, greedy_a), (b, greedy_b) = (a, b) if isinstance(b, (tuple, list)) else ((a, None), (b, None))
                assert near(float(a), float(b)) and greedy_a == greedy_b, where
                largest = max(largest, abs(float(a) - float(b)))
        for name, value in theirs[1][task].items():
            assert abs(ours[1][task][name] - value) <= 1e-4 * abs(value), (what, task, name, ours[1][task][name], value)
    print(f"{what}: {', '.join(theirs[0])}: equal; log-likelihoods differ by at most {largest:.1e}", flush=True)


def hf(folder, **more):
    return {"pretrained": str(folder), "device": "cpu", "dtype": "float32", "batch_size": 1, **more}


def check_one_model(address, model, folder):
    # local-completions keeps one position for a token that it does not want, and one more in rolling windows.
    local = {"model": model, "base_url": f"{address}/v1/completions", "max_length": CONTEXT, "max_gen_toks": 24,
             "num_concurrent": 3}
    reference = evaluate("hf", hf(folder, add_bos_token=False, max_length=CONTEXT - 2), ALL)
    compare(f"{model}, the server's tokenizer", evaluate("local-completions", local | {"tokenizer_backend": "remote"}, ALL),
            reference)
    compare(f"{model}, transformers' tokenizer, batches of texts",
            evaluate("local-completions", local | {"tokenizer_backend": "huggingface", "tokenizer": str(folder),
                                                   "num_concurrent": 1, "batch_size": 8}, ALL), reference)


def check_gguf(address, folder):
    """This type names no model, so the server's first one answers; it reads text_offset and the names of tokens."""
    tasks = ("topics_choice", "topics_fewshot", "topics_last_word")
    compare("gguf", evaluate("gguf", {"base_url": address}, tasks), evaluate("hf", hf(folder, add_bos_token=True), tasks))


def tokens_of(address, text):
    request = urllib.request.Request(f"{address}/tokenize", json.dumps({"prompt": text, "add_special_tokens": False}).encode())
    return json.load(urllib.request.urlopen(request))["tokens"]


def check_mixture(binary, address, work):
    """The words 2 to 30 of each text, by the ensemble; against cbtm ensemble evaluate on the same words."""
    texts = [" ".join(json.loads(line)["text"].split(" ")[:30])
             for line in (TASKS / "topics_text.jsonl").read_text().splitlines()]
    (work / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    made_run.run(binary, "ensemble", "evaluate", "--experts", "run/experts", "--topk", "2", "--corpus", "texts.jsonl",
                 "--token-log-probs", "scores.jsonl", "--threads", "1", "--max-tokens", CONTEXT, cwd=work)
    answers, _ = evaluate("local-completions", {"model": "ensemble", "base_url": f"{address}/v1/completions",
                                                "tokenizer_backend": "remote", "max_length": CONTEXT}, ("topics_rest",))
    scores = [json.loads(line)["log_probabilities"] for line in (work / "scores.jsonl").read_text().splitlines()]
    compared, largest = 0, 0.0
    for text, [(ours, _)], theirs in zip(texts, answers["topics_rest"], scores, strict=True):
        if "</s>" in text:
            continue  # the end token to the harness, but six characters in a corpus
        first = len(tokens_of(address, text.split(" ", 1)[0]))
        expected = sum(theirs[first - 1:-1])  # the last is of the end token, which the harness does not ask for
        assert near(ours, expected), (text, ours, expected)
        compared, largest = compared + 1, max(largest, abs(ours - expected))
    assert compared >= 8, compared
    print(f"ensemble: {compared} texts as cbtm ensemble evaluate has them; they differ by at most {largest:.1e}", flush=True)


def main():
    try:
        import lm_eval  # noqa: F401
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        print(f"SKIPPED: {error}; lm-evaluation-harness was not tried (scripts/test-clients installs it)")
        sys.exit(made_run.SKIPPED)
    torch.set_num_threads(1)
    binary = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as place:
        work = pathlib.Path(place)
        made_run.make_experts(binary, work)
        with made_run.serving(binary, work, "--experts", "run/experts", "--topk", "2") as address:
            check_one_model(address, "expert-001", work / "run/experts/001")
            check_mixture(binary, address, work)
        with made_run.serving(binary, work, "--model", "run/seed") as address:
            check_gguf(address, work / "run/seed")


if __name__ == "__main__":
    main()
