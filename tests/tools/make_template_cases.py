#!/usr/bin/env python3
"""Writes the expected outputs of the template tests, computed by Python's Jinja as transformers sets it up.

    make_template_cases.py DIR            rewrites DIR/language.json, DIR/chat.json and DIR/random.json
    make_template_cases.py --random N --seed S FILE    N random templates, for a differential run:
                                          TEMPLATE_CASES=FILE test_template

A case is {"name", "template" or "file", "vars", "expect" or "error": true}.
"""
import argparse
import copy
import datetime
import json
import pathlib
import random

import jinja2
import jinja2.ext
import jinja2.sandbox

from template_random import random_case
from template_table import CHATS, TABLE, VARS

NOW = 1732147200  # 2024-11-21 00:00:00 UTC


class Generation(jinja2.ext.Extension):
    """{% generation %} runs its body in a scope of its own and writes what it gives."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("passed"), [], [], body).set_lineno(line)

    def passed(self, caller):
        return caller()


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def strftime_now(fmt):
        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(fmt)

    env.filters["tojson"] = tojson
    env.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, dict=dict)
    return env


ENV = environment()


def solve(case, source):
    """Fills in what the case should give."""
    try:
        case["expect"] = ENV.from_string(source).render(**copy.deepcopy(case["vars"]))
        case["expect"].encode()
    except Exception as e:  # any failure of the template is one of ours too
        case["error"] = True
        case.pop("expect", None)
        case["why"] = f"{type(e).__name__}: {e}"[:100]
    return case


def language():
    return [solve({"name": f"{i}", "template": t, "vars": VARS if v is None else v}, t) for i, (t, v) in enumerate(TABLE)]


def chats(folder):
    out = []
    for path in sorted(folder.glob("*.jinja")):
        for name, variables in CHATS:
            case = {"name": f"{path.stem}: {name}", "file": path.name, "vars": variables}
            out.append(solve(case, path.read_text()))
    return out


def randoms(n, seed):
    rng = random.Random(seed)
    out = []
    while len(out) < n:
        template = random_case(rng)
        case = solve({"name": f"{seed}/{len(out)}", "template": template, "vars": VARS}, template)
        text = case.get("expect", "")
        if " 0x7" in text or "dict_" in text or "Markup(" in text or "range(" in text or len(text) > 4000:
            continue  # what Python prints for objects without a value of their own is of no use to anybody
        if "expect" not in case and rng.random() < 0.8:
            continue  # mostly templates that work
        out.append(case)
    return out


def write(path, cases):
    """One case a line; the variables that most cases share are written once."""
    with open(path, "w", encoding="utf-8") as f:
        f.write('{"vars": ' + json.dumps(VARS, ensure_ascii=False) + ',\n"cases": [\n')
        lines = []
        for c in cases:
            c = {k: v for k, v in c.items() if k != "why" and not (k == "vars" and v is VARS)}
            lines.append(json.dumps(c, ensure_ascii=False))
        f.write(",\n".join(lines) + "\n]}\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("target", type=pathlib.Path)
    p.add_argument("--random", type=int)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    if a.random:
        write(a.target, randoms(a.random, a.seed))
        return
    write(a.target / "language.json", language())
    write(a.target / "chat.json", chats(a.target))
    write(a.target / "random.json", randoms(120, 1))


if __name__ == "__main__":
    main()
