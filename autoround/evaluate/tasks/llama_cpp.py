"""A GGUF file as tasks see it, run by llama.cpp through the bindings of xllamacpp."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoround.errors import ModelError
from autoround.evaluate.tasks.model import Likelihood, LimitedContext, OnAnswer, Request

#: The package of the bindings, and what installs it.
PACKAGE, INSTALL = "xllamacpp", "pip install xllamacpp"
#: Tokens of a request at most; the cache of a long context alone may outgrow the memory.
MAX_LENGTH = 4096
#: Seconds that an answer may take.
TIMEOUT = 600.0
#: Above any logit: the token that it is added to is the one drawn.
_BIAS = 10_000.0


def is_installed() -> bool:
    """Tell whether the bindings of llama.cpp are installed."""
    return importlib.util.find_spec(PACKAGE) is not None


def start_server(path: Path, *, threads: int) -> tuple[subprocess.Popen[str], str]:
    """Start llama.cpp's server on a file in a process of its own.

    Args:
        path: of the GGUF file.
        threads: to compute with.

    Returns:
        The process, which ends when its standard input is closed, and the server's address.

    Raises:
        ModelError: llama.cpp cannot load the file.
    """
    command = [sys.executable, "-m", "autoround.evaluate.tasks.llama_server", str(path)]
    process = subprocess.Popen(
        [*command, str(MAX_LENGTH), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert process.stdout is not None, "it is a pipe"
    address = process.stdout.readline().strip()
    if not address:
        _, reasons = process.communicate()
        last = next((x.strip() for x in reversed(reasons.splitlines()) if x.strip()), "no reason")
        raise ModelError(f"llama.cpp cannot load {path}: {last[:300]}")
    return process, address


class LlamaCppTaskModel(LimitedContext):
    """Scores continuations through llama.cpp's server, a token at a time.

    The server lists the probability of the token that was drawn, as the logits have it before any
    bias; a bias draws the token that is asked about.

    Args:
        address: of the server.
        process: that it runs in, which close() ends; None where it is somebody else's.
    """

    def __init__(self, address: str, process: subprocess.Popen[str] | None = None) -> None:
        self._address, self._process = address, process
        props, models = self._ask("/props"), self._ask("/v1/models")
        trained = models["data"][0].get("meta", {}).get("n_ctx_train") or MAX_LENGTH
        super().__init__(min(int(trained), MAX_LENGTH) - 1)
        begin = props.get("bos_token") or props.get("eos_token") or ""
        ids = self.encode(begin, special=False)
        if not ids:
            raise ModelError("the GGUF file names no token that begins or ends a text")
        self._prefix_token = ids[0]

    @property
    def engine(self) -> str:
        """The program that runs the model."""
        try:
            version = importlib.metadata.version(PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        return f"llama.cpp by {PACKAGE} {version}".rstrip()

    @property
    def prefix_token(self) -> int:
        """The id that begins a text, or else that ends one."""
        return self._prefix_token

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Return the ids of a text, by the tokenizer of the file."""
        body = {"content": text, "add_special": special, "parse_special": True}
        return [int(i) for i in self._ask("/tokenize", body)["tokens"]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids."""
        return str(self._ask("/detokenize", {"tokens": list(ids)})["content"])

    def score(
        self, requests: Sequence[Request], *, on_answer: OnAnswer | None = None
    ) -> list[Likelihood]:
        """Return the likelihood of each continuation.

        Args:
            requests: neighbours that begin alike are the quickest.
            on_answer: called after each request.

        Raises:
            ModelError: the server fails.
        """
        answers = []
        for request in requests:
            ids = self.shorten(request)
            kept = list(request.continuation)[-len(ids) :]
            start = len(ids) - len(kept) + 1
            total, greedy = 0.0, True
            for offset, token in enumerate(kept):
                log_prob, best = self._score_token(ids[: start + offset], token)
                total += log_prob
                greedy = greedy and best == token
            answers.append(Likelihood(total, greedy))
            if on_answer is not None:
                on_answer(len(answers), len(requests))
        return answers

    def _score_token(self, ids: list[int], token: int) -> tuple[float, int]:
        """Return the log-probability of a token behind some ids, and the most likely token."""
        body = {
            "prompt": ids,
            "n_predict": 1,
            "n_probs": 1,
            "temperature": 0.0,
            "samplers": ["temperature"],
            "cache_prompt": True,
            "logit_bias": [[token, _BIAS]],
        }
        entries = self._ask("/completion", body).get("completion_probabilities") or []
        if not entries or entries[0].get("id") != token:
            raise ModelError(
                f"llama.cpp gives no probability of the token {token}; score the folder with "
                "--engine torch"
            )
        return float(entries[0]["logprob"]), int(entries[0]["top_logprobs"][0]["id"])

    def generate(self, ids: Sequence[int], *, until: Sequence[str], max_new_tokens: int) -> str:
        """Return the most likely continuation of some ids, up to the first of some texts.

        Args:
            ids: of the prompt; cut from the left where they leave no room.
            until: texts that end the continuation, and are left out.
            max_new_tokens: at most.
        """
        body = {
            "prompt": self.leave_room(ids, max_new_tokens),
            "n_predict": max_new_tokens,
            "temperature": 0.0,
            "stop": [stop for stop in until if stop],
            "cache_prompt": True,
        }
        return str(self._ask("/completion", body)["content"])

    def close(self) -> None:
        """End the server's process."""
        if self._process is not None:
            # It ends when its input does; waiting would wait for a server that hangs.
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._address + path, data, headers)
        # Proxies of the environment are not for the loopback interface.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=TIMEOUT) as reply:
                return json.loads(reply.read())
        except (OSError, ValueError) as error:
            raise ModelError(f"llama.cpp's server fails at {path}: {error}") from error
