# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
"""The lists of planted mistakes in tests/mutations/: how they are read, checked and applied.

A list is plain text. Lines that begin with "#" are comments; an empty line ends a paragraph. A
paragraph that begins with "mistake:" is one mistake, any other sets defaults for what follows:

    file: memslot/dirty_ring.cc
    tests: memslot:dirty_ring_test

    mistake: ring_index_before_entry
    in: bool DirtyRing::Push
    guest: The collector reads an entry that is not there yet.
    - entries_[at & mask_] = entry;
    - pushed_.store(at + 1, std::memory_order_release);
    + pushed_.store(at + 1, std::memory_order_release);
    + entries_[at & mask_] = entry;

The text of the "-" lines is replaced by that of the "+" lines. White space does not count, so a
reformatted line is still found. The text must stand in the file exactly once; where it would not,
"in:" names the line that the function or class around it begins with, and it must stand exactly
once in there. "tests:" are targets below //tests/, the likeliest first, or scenarios
of the explorer ("explore:rmap/zap+delete"). "equivalent:" gives the reason why no test can tell
the mistake from the code.
"""

import os
import re
from dataclasses import dataclass, field

FOLDER = "tests/mutations"
NAME = re.compile(r"^[a-z0-9_]+$")
KEYS = ("file", "tests", "in", "guest", "equivalent", "mistake")


class ListError(Exception):
    """What is wrong with a list, as "path:line: what is wrong"."""


@dataclass
class Mistake:
    name: str
    where: str  # "path:line" of the list
    file: str = ""
    tests: list = field(default_factory=list)
    scope: str = ""
    guest: str = ""
    equivalent: str = ""
    old: str = ""
    new: str = ""


def compact(text):
    """The text without white space, and for each character left its place in the text."""
    places = [i for i, c in enumerate(text) if not c.isspace()]
    return "".join(text[i] for i in places), places


def find_all(text, wanted):
    """The ranges of `text` that equal `wanted` but for white space."""
    flat, places = compact(text)
    key, _ = compact(wanted)
    found = []
    at = flat.find(key) if key else -1
    while at != -1:
        found.append((places[at], places[at + len(key) - 1] + 1))
        at = flat.find(key, at + 1)
    return found


def scope_of(text, scope):
    """The range of `text` from the one place where `scope` stands to the "}" that is indented as
    the line it stands in, or None if it stands nowhere or twice."""
    starts = find_all(text, scope)
    if len(starts) != 1:
        return None
    line_start = text.rfind("\n", 0, starts[0][0]) + 1
    indent = re.match(r" *", text[line_start:]).group(0)
    end = re.compile(r"^" + indent + r"\}", re.MULTILINE).search(text, starts[0][1])
    return starts[0][0], end.end() if end else len(text)


def locate(mistake, text):
    """The range of `text` that the mistake replaces. ListError unless there is exactly one."""
    begin, end = 0, len(text)
    if mistake.scope:
        scope = scope_of(text, mistake.scope)
        if scope is None:
            raise ListError(f"{mistake.where}: {mistake.name}: '{mistake.scope}' does not stand "
                            f"exactly once in {mistake.file}")
        begin, end = scope
    found = find_all(text[begin:end], mistake.old)
    if len(found) != 1:
        raise ListError(f"{mistake.where}: {mistake.name}: its text stands {len(found)} times in "
                        f"{mistake.file}, not once; follow the code that moved on")
    return begin + found[0][0], begin + found[0][1]


def apply(mistake, text):
    """`text` with the mistake in it."""
    begin, end = locate(mistake, text)
    return text[:begin] + mistake.new + text[end:]


def is_explored(test):
    """Whether a test of the lists needs the build with the scheduler."""
    return test.startswith("explore:")


def is_scenario(test):
    """Whether a test of the lists is a scenario of the explorer, not a target."""
    return is_explored(test) and "/" in test


def check_mistake(mistake):
    if not NAME.match(mistake.name):
        raise ListError(f"{mistake.where}: '{mistake.name}': a name is lower case, digits and _")
    for key, value in (("file", mistake.file), ("tests", mistake.tests),
                       ("guest", mistake.guest), ("-", mistake.old)):
        if not value:
            raise ListError(f"{mistake.where}: {mistake.name} has no '{key}'")
    if compact(mistake.old)[0] == compact(mistake.new)[0]:
        raise ListError(f"{mistake.where}: {mistake.name} changes nothing")


def paragraphs(path, text):
    """Lists of (line number, line) without comments, split at empty lines."""
    current = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith("#"):
            continue
        if line.strip():
            current.append((number, line))
        elif current:
            yield current
            current = []
    if current:
        yield current


def fields_of(path, lines):
    """{key: value} of a paragraph, with "-" and "+" for the texts."""
    fields = {"-": [], "+": []}
    for number, line in lines:
        if line[0] in "-+":
            fields[line[0]].append(line[2:])
            continue
        key, colon, value = line.partition(":")
        if not colon or key not in KEYS or key in fields:
            raise ListError(f"{path}:{number}: '{line}' is none of {', '.join(KEYS)}, or is there "
                            "twice")
        fields[key] = value.strip()
    return fields


def parse(path, text):
    """The mistakes of one list."""
    mistakes = []
    defaults = {}
    for lines in paragraphs(path, text):
        fields = fields_of(path, lines)
        if "mistake" not in fields:
            defaults.update({k: v for k, v in fields.items() if k in ("file", "tests")})
            continue
        both = {**defaults, **fields}
        mistake = Mistake(
            name=fields["mistake"], where=f"{path}:{lines[0][0]}", file=both.get("file", ""),
            tests=both.get("tests", "").split(), scope=fields.get("in", ""),
            guest=fields.get("guest", ""), equivalent=fields.get("equivalent", ""),
            old="\n".join(fields["-"]), new="\n".join(fields["+"]))
        check_mistake(mistake)
        mistakes.append(mistake)
    return mistakes


def load(root):
    """Every mistake of the project, in the order of the lists' names."""
    mistakes = []
    folder = os.path.join(root, FOLDER)
    for name in sorted(os.listdir(folder)):
        if name.endswith(".txt"):
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                mistakes += parse(f"{FOLDER}/{name}", file.read())
    names = set()
    for mistake in mistakes:
        if mistake.name in names:
            raise ListError(f"{mistake.where}: there are two mistakes '{mistake.name}'")
        names.add(mistake.name)
    return mistakes


def read_source(root, mistake):
    try:
        with open(os.path.join(root, mistake.file), encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise ListError(f"{mistake.where}: {mistake.name}: {error}") from error


def check_places(root, mistakes):
    """What is wrong with the places of the mistakes, one line each."""
    problems = []
    for mistake in mistakes:
        try:
            locate(mistake, read_source(root, mistake))
        except ListError as error:
            problems.append(str(error))
    return problems


def area(mistake):
    """The name of the list that the mistake stands in."""
    return os.path.basename(mistake.where.rpartition(":")[0])[:-len(".txt")]


def select(mistakes, words):
    """The mistakes that N, FROM-TO, NAME or the name of a list choose; all without words. Numbers
    count from 1."""
    if not words:
        return list(mistakes)
    chosen = []
    for word in words:
        numbers = re.match(r"^(\d+)(?:-(\d+))?$", word)
        if numbers:
            first = int(numbers.group(1))
            last = int(numbers.group(2) or first)
            found = mistakes[max(first, 1) - 1:last]
        else:
            found = [m for m in mistakes if word in (m.name, area(m))]
        if not found:
            raise ListError(f"'{word}' names none of the {len(mistakes)} mistakes")
        chosen += [m for m in found if m not in chosen]
    return chosen
