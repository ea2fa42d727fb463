"""Compare llama.cpp's tokens with transformers' for a tokenizer of every kind that is written.

    python tools/clients/gguf_tokenizers.py --work DIR --python VENV/bin/python

Small tokenizers are trained on the standard library's source, one for each name that llama.cpp has
for a pre-tokenizer, with ``ignore_merges`` on and off, and one of SentencePiece's kind. Each
is written into a file of a tiny model and cuts texts of code, spaces, digits, scripts and emoji.
Chat templates by name are compared, too. Exits with 1 on a difference.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gguf_archs import reason_of, write_plain
from gguf_options import COMMON

SIZE = 2000
TEXTS = [
    "Hello, world! It's 12345 o'clock. WE'LL see; they've 3.14159, I'D say.",
    "def f(x):\n    return x ** 2  # square\n\n\n\tend\r\n\r\nif __name__ == '__main__':\n\t\tpass",
    "naïve café, Ångström, façade, señor, Žižek, Ελληνικά, Русский текст, עברית, العربية",
    "日本語のテキスト、中文字符。한국어 문장.",
    "ไทย हिन्दी தமிழ் ภาษาไทย नमस्ते दुनिया",
    "emoji 🙂🙃 👩‍👩‍👧‍👦 🏳️‍🌈 ✅🚀",
    "  leading and   inner   spaces  \n \n  \n",
    "1 22 333 4444 55555 666666 7777777 1,000,000.00 0x1F 1e-5 ²³ ½ Ⅷ",
    "<s>user\nHi</s><s>assistant\n",
    "URL: https://example.org/a?b=c&d=1.5e-3 and path C:\\dir\\file.txt",
    "camelCase PascalCase snake_case SCREAMING_CASE kebab-case mixedUPPERlower123abc",
    "'s 'S 'll 'LL 're've'm 'd'T quoted 'single' \"double\" `back`",
    "\u00a0non\u2003breaking\u200bzero\ufeffwidth \t tabs\t\t and\x0bvertical",
    "!!! ??? ... --- === /// *** ((( ))) [[[ ]]] {{{ }}} <<< >>> @#$%^&*",
    "zqxj zqxjs Hello zqxj",
    "cafe\u0301 in two code points, A\u030angstro\u0308m",
    "",
    " ",
    "a",
]
#: The text in which accents are code points of their own, which llama.cpp never puts together.
DECOMPOSED = next(i for i, text in enumerate(TEXTS) if "two code points" in text)


#: Scripts with combining marks, which llama.cpp does not take for letters in these two.
MARKS = next(i for i, text in enumerate(TEXTS) if "हिन्दी" in text)
WITHOUT_MARKS = ("tekken", "gpt-4o")


def main() -> None:
    """Run every tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--python", required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    failed = False
    print("| tokenizer | texts that differ | |\n|---|---|---|")
    for name, tokenizer in tokenizers():
        excused = (MARKS, DECOMPOSED) if name.startswith(WITHOUT_MARKS) else ()
        good, line = compare(args.work, args.python, tokenizer, excused=excused)
        failed = failed or not good
        print(f"| {name} | {line} |", flush=True)
    sys.exit(failed)


def corpus() -> list[str]:
    """Return texts to train on: source files of the standard library, and ours."""
    files = sorted(Path(json.__file__).parent.parent.glob("*.py"))[:40]
    source = [path.read_text(encoding="utf-8", errors="replace")[:20000] for path in files]
    # But of the word that no merge may make.
    return source + 30 * [text for text in TEXTS if "zqxj" not in text]


def tokenizers() -> Iterator[tuple[str, Any]]:
    """Make tokenizers, each with what it is."""
    from tokenizers import Regex, normalizers, pre_tokenizers

    from autoround.gguf.pretokenizers import NAMES

    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    yield "gpt-2", byte_level(plain, False)
    yield "gpt-2, NFC", byte_level(plain, False, normalizers.NFC())
    digits = pre_tokenizers.Digits(individual_digits=True)
    yield "smollm", byte_level(pre_tokenizers.Sequence([digits, plain]), False)
    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for (regexes, ignores), name in NAMES.items():
        cuts = [pre_tokenizers.Split(Regex(regex), "isolated") for regex in regexes]
        whole = pre_tokenizers.Sequence([*cuts, bare])
        yield f"{name}", byte_level(whole, ignores)
        yield f"{name}, ignore_merges {not ignores}", byte_level(whole, not ignores)
        yield f"{name}, whole words", byte_level(whole, ignores, words=True)
        yield (
            f"{name}, ignore_merges {not ignores}, whole words",
            byte_level(whole, not ignores, words=True),
        )
    yield "SentencePiece", sentencepiece(True)
    yield "SentencePiece, no space in front", sentencepiece(False)


def byte_level(cut: Any, ignores: bool, normalizer: Any = None, words: bool = False) -> Any:
    """Train a byte-level tokenizer; words: with tokens that no merge makes."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 100,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    data = json.loads(tokenizer.to_str())
    data["model"]["ignore_merges"] = ignores
    if words:
        for word in ("zqxj", "Ġzqxj"):
            data["model"]["vocab"].setdefault(word, len(data["model"]["vocab"]))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(data)),
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template={"default": "{{ messages[0].content }}", "tool_use": "{{ tools }}"},
    )


def sentencepiece(prefix: bool) -> Any:
    """Make a tokenizer as SentencePiece's are: any two neighbours that make a token merge."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers

    text = "\n".join(corpus()).replace(" ", "▁")
    pieces = dict.fromkeys(sorted({c for c in text if c > "\x7f" or c.isprintable()})[:400])
    rng = random.Random(0)
    while len(pieces) < SIZE - 300:
        start = rng.randrange(len(text) - 8)
        piece = text[start : start + rng.randint(2, 6)]
        if "\n" not in piece and all(c in pieces for c in piece):
            # With a piece come its beginnings, as in a vocabulary that was merged together.
            pieces.update(dict.fromkeys(piece[:k] for k in range(2, len(piece) + 1)))
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {name: i for i, name in enumerate([*names, *pieces])}
    merges = [
        (piece[:k], piece[k:])
        for piece in pieces
        for k in range(1, len(piece))
        if piece[:k] in pieces and piece[k:] in pieces
    ]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    steps: list[Any] = [normalizers.Prepend("▁")] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback()])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def compare(
    work: Path, python: str, tokenizer: Any, excused: Sequence[int] = ()
) -> tuple[bool, str]:
    """Let both cut the texts; a refusal is as it should be, a difference is not."""
    import torch
    import transformers

    from autoround.errors import AutoRoundError

    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**COMMON, "vocab_size": SIZE, "num_hidden_layers": 1})
    model = transformers.AutoModelForCausalLM.from_config(config).eval().float()
    file, texts = work / "tokenizer.gguf", work / "texts.json"
    try:
        write_plain(model, file, tokenizer)
    except AutoRoundError as error:
        return True, f"| refused: {' '.join(str(error).split())[:110]}".replace("|", "/", 0)
    texts.write_text(json.dumps(TEXTS), encoding="utf-8")
    script = str(Path(__file__).with_name("gguf_server.py"))
    command = [python, script, "--model", str(file), "--texts", str(texts)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        return False, f"| failed: {reason_of(done.stderr)}"
    printed = json.loads(done.stdout.strip().splitlines()[-1])
    ours = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    differ = [i for i, ids in enumerate(printed["ids"]) if ids != ours[i]]
    if tokenizer.backend_tokenizer.normalizer is not None and DECOMPOSED in differ:
        differ.remove(DECOMPOSED)
    known = [i for i in differ if i in excused]
    differ = [i for i in differ if i not in excused]
    words = f"first: {TEXTS[differ[0]][:40]!r}" if differ else ""
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        read = printed["templates"]
        wrong = read.get("chat_template") != templates["default"]
        wrong = wrong or read.get("chat_template_tool_use") != templates["tool_use"]
        words += f" templates {sorted(read)} differ" if wrong else ""
    note = " but of combining marks, as is known" if known else ""
    return not words, f"{len(differ)} of {len(TEXTS)}{note} | {words}"


if __name__ == "__main__":
    main()
