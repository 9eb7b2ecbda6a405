"""Text of unknown origin in the form that its place needs: one line, Markdown, LaTeX, csv, or a label of a picture."""

from __future__ import annotations

import re

# C0 and C1 control characters but tab and newline, separators of lines, marks that turn the direction of what follows,
# and halves of surrogate pairs, which no encoding can write.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# An underscore within a word is not a mark, so names such as QIN_demo stay readable.
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])|^[-+#=]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_TEX = str.maketrans(
    {
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "<": "\\textless{}",
        ">": "\\textgreater{}",
        "|": "\\textbar{}",
        "`": "\\textasciigrave{}",
        "±": "$\\pm$",
        "≥": "$\\ge$",
        "…": "\\dots{}",
        **{character: "\\" + character for character in "&%$#_{}"},
    }
)


def visible(text: str) -> str:
    r"""Show control characters by their escapes, so that they steer no terminal; newlines and tabs stay.

    >>> print(visible("\x1b[31mred"))
    \x1b[31mred
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    r"""The text in one line: white space is single spaces, control characters are their escapes.

    >>> one_line("a\n b\t\x07")
    'a b \\x07'
    """
    return visible(" ".join(text.split()))


def markdown(text: str) -> str:
    r"""The text in one line that Markdown shows as it is, in a table's cell too.

    >>> print(markdown("QIN_demo *a* | <b> $x$ _y_"))
    QIN_demo \*a\* \| &lt;b&gt; \$x\$ \_y\_
    """
    return _MARKDOWN.sub(lambda found: "\\" + found[0], one_line(text)).translate(_ENTITIES)


def markdown_code(text: str) -> str:
    """The text in one line as a Markdown code span, which may hold backticks.

    >>> markdown_code("a"), markdown_code("a`b")
    ('`a`', '`` a`b ``')
    """
    line = one_line(text)
    longest = max(map(len, re.findall("`+", line)), default=0)
    room = " " if longest else ""
    return "`" * (longest + 1) + room + line + room + "`" * (longest + 1)


def latex(text: str) -> str:
    r"""The text in one line without what LaTeX would read as a command.

    >>> print(latex("QIN_demo 95 % ± 1"))
    QIN\_demo 95 \% $\pm$ 1
    """
    escaped = one_line(text).translate(_TEX)
    # After the \\ that ends a row, an opening bracket or a star would be its argument.
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped


def csv_text(text: str) -> str:
    r"""The text for a cell that `csv.writer` quotes: lines end with \n, control characters are their escapes.

    What looks like a formula stays: programs read the value, and a minus starts many of them.
    """
    return visible(text.replace("\r\n", "\n").replace("\r", "\n"))


def label(text: str) -> str:
    r"""The text in one line as matplotlib shows it; a pair of dollars is not a formula.

    >>> label("$5 or $6")
    '\\$5 or \\$6'
    """
    return one_line(text).replace("$", "\\$")


def without_passwords(text: str) -> str:
    """The text with `***` for the passwords of the URL in it.

    >>> without_passwords("--storage=postgresql://ann:p@ss/word@db:5432/optuna?sslmode=require&password=secret")
    '--storage=postgresql://ann:***@db:5432/optuna?sslmode=require&password=***'
    """
    text = re.sub("(?<=://)([^:/@]*):.*@", r"\1:***@", text)
    return re.sub(r"(?<=password=)[^&\s]*", "***", text)
