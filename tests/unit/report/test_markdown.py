from __future__ import annotations

from autoround.report.markdown import code, code_block, plain, table

HOSTILE = "<script>alert(1)</script> [a](javascript:x) | `b` *c* _d_ \n# e ![f](g) &lt; https://x.y"


def test_nothing_in_a_text_is_markup() -> None:
    shown = plain(HOSTILE)
    assert "\n" not in shown
    for letter in "<>[]()|`*#!&":
        assert shown.count(letter) == shown.count("\\" + letter) + (
            # The entity that keeps an address from being a link.
            {"&": 1, "#": 1}.get(letter, 0)
        )
    assert "https:" not in shown
    assert plain("a\u202eb\x00c") == "a b c"
    assert len(plain("x" * 9999)) == 500


def test_names_stay_as_they_are() -> None:
    for name in ("Qwen/Qwen3-8B", "gguf:q4_k_m", "0.1.0", "down_proj", "a+b=c"):
        assert plain(name) == name


def test_code_ends_where_it_is_meant_to() -> None:
    assert code("a") == "`a`"
    assert code("a`b``c") == "``` a`b``c ```"
    assert code("a|b\nc") == "`a\\|b c`"
    assert code("") == ""
    assert code_block("a\n```\nb", "sh") == "````sh\na\n```\nb\n````"


def test_a_table() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
