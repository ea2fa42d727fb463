from __future__ import annotations

from autoround.report.markup import Cell, Heading, Html, el, escape, join, table


def test_texts_are_escaped_and_markup_is_not() -> None:
    assert el("p", "a < b & c", el("b", "\"'")) == "<p>a &lt; b &amp; c<b>&quot;&#x27;</b></p>"
    assert isinstance(el("p", "x"), Html)
    assert join(["<", Html("<i></i>")], ">") == "&lt;&gt;<i></i>"


def test_attributes_are_escaped() -> None:
    assert el("a", attrs={"href": '"><script>'}) == '<a href="&quot;&gt;&lt;script&gt;"></a>'


def test_what_nobody_sees_is_written_out() -> None:
    assert escape("\x1b[0m\u202e\x00\ud800") == "\\x1b[0m\\u202e\\x00\\ud800"
    assert escape("two\n\tlines") == "two\n\tlines"
    escape("\x1b\u202e").encode("utf-8")


def test_a_table_names_its_rows_and_columns() -> None:
    made = table(
        "A <caption>",
        [Heading("name"), Heading("size", numbers=True)],
        [["a<b", Cell("1 MB", 1e6)], ["c", Cell("–", -1.0, "odd")]],
        kind="sortable",
        tall=True,
    )
    assert made == (
        '<div class="scroll tall" tabindex="0" role="region" aria-label="A &lt;caption&gt;">'
        '<table class="sortable"><caption>A &lt;caption&gt;</caption><thead><tr>'
        '<th scope="col">name</th><th scope="col" class="number">size</th></tr></thead><tbody>'
        '<tr><th scope="row">a&lt;b</th><td class="number" data-sort="1000000.0">1 MB</td></tr>'
        '<tr><th scope="row">c</th><td class="number odd" data-sort="-1.0">–</td></tr>'
        "</tbody></table></div>"
    )
