#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""Shows Doxygen the comments of a header: prints the file with every `//` comment as Doxygen's own.

Our comments are plain sentences. The first block of a file describes the file, a comment behind a
declaration describes that declaration, and any other describes what follows it.

Usage: doxygen_filter.py FILE
"""

import re
import sys

COMMENT = re.compile(r"^(\s*)//(?!/)( ?)(.*)$")
# Behind code; not within a string, where the headers have no `//`.
TRAILING = re.compile(r"^(\s*[^\s/].*?[^\s])\s*//(?!/)( ?.*)$")
# What Doxygen would take for one of its commands or for an HTML tag.
SPECIAL = re.compile(r"[@\\<>#]")
CODE = re.compile(r"`[^`]*`")


def escaped(text):
    """`text` with nothing in it, outside code in backquotes, that Doxygen would interpret."""
    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [SPECIAL.sub(r"\\\g<0>", text[end:code.start()]), code.group(0)]
        end = code.end()
    return "".join(parts + [SPECIAL.sub(r"\\\g<0>", text[end:])])


def filtered(text):
    """The header `text` with its comments as Doxygen reads them."""
    lines, in_head, trailing = [], True, False
    for line in text.split("\n"):
        comment, behind = COMMENT.match(line), TRAILING.match(line)
        if comment and in_head:
            spdx = comment.group(3).startswith("SPDX")
            text = comment.group(2) + escaped(comment.group(3))
            lines.append("/// \\file" if spdx else "///" + text)
            continue
        in_head = False
        if comment:
            # A comment that goes on from behind the line above.
            mark = "///<" if trailing and len(comment.group(1)) > 20 else "///"
            lines.append(f"{comment.group(1)}{mark}{comment.group(2)}{escaped(comment.group(3))}")
            continue
        trailing = behind is not None and not line.lstrip().startswith("#")
        if trailing and not behind.group(1).lstrip().startswith("}"):
            lines.append(f"{behind.group(1)}  ///<{escaped(behind.group(2))}")
        else:
            lines.append(line)
    return "\n".join(lines)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        sys.stdout.write(filtered(file.read()))
