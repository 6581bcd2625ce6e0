"""Random templates for the differential test: a grammar of typed expressions over the variables of template_table."""

NAMES = {
    "str": ["text", "word", "empty", "messages[0].content", "messages[1]['role']", "m.content", "k", "words[1]", "uni"],
    "int": ["n", "zero", "neg", "loop.index", "loop.index0", "loop.length", "nums[0]", "(words|length)", "i"],
    "float": ["pi", "0.5", "1e3", "(n / 3)"],
    "bool": ["yes", "no", "true", "False", "loop.first", "loop.last", "(m is defined)"],
    "list": ["nums", "words", "messages", "nested", "[]", "tool.args", "range(4)|list"],
    "dict": ["tool", "messages[0]", "{}", "ages", "m"],
    "any": ["missing", "none", "tool.absent", "x", "v", "ns.a"],
}
STRINGS = ["''", "'a'", '"b c"', "'\\n'", "' x '", "'a,b,,c'", "'<|im_start|>'", "'é√'", "'It\\'s'", "'{\"k\": 1}'", "'Hello World'"]


class Gen:
    def __init__(self, rng):
        self.r = rng
        self.depth = 0

    def pick(self, *options):
        return self.r.choice(options)

    def expr(self, kind=None):
        kind = kind or self.r.choice(list(NAMES))
        self.depth += 1
        try:
            if self.depth > 5 or self.r.random() < 0.25:
                return self.leaf(kind)
            return getattr(self, "make_" + kind)()
        finally:
            self.depth -= 1

    def leaf(self, kind):
        if kind == "str" and self.r.random() < 0.5:
            return self.r.choice(STRINGS)
        if kind == "int" and self.r.random() < 0.5:
            return str(self.r.randint(-3, 12))
        return self.r.choice(NAMES[kind])

    def make_str(self):
        e = self.expr
        return self.pick(
            lambda: f"({e('str')} ~ {e()})",
            lambda: f"({e('str')} + {e('str')})",
            lambda: f"{e('str')}[{self.r.randint(-3, 3)}:{self.pick('', '1', '-1', '5')}]",
            lambda: f"{e('str')}[::{self.pick('1', '2', '-1', '-2')}]",
            lambda: f"({e('str')}|{self.pick('upper', 'lower', 'trim', 'title', 'capitalize', 'string', 'reverse')})",
            lambda: f"({e('str')}|replace({e('str')}, {e('str')}))",
            lambda: f"({e('list')}|join({e('str')}))",
            lambda: f"({e('any')}|default({e('str')}{self.pick('', ', true')}))",
            lambda: f"({e(self.pick('dict', 'list', 'str', 'int', 'bool', 'float'))}|tojson{self.pick('', '(indent=2)', '(ensure_ascii=true)', '(sort_keys=true)')})",
            lambda: f"{e('str')}.{self.pick('strip', 'lstrip', 'rstrip', 'upper', 'lower', 'title', 'capitalize', 'swapcase')}()",
            lambda: f"{e('str')}.{self.pick('strip', 'lstrip', 'rstrip')}({e('str')})",
            lambda: f"{e('str')}.replace({e('str')}, {e('str')}{self.pick('', ', 1', ', 2')})",
            lambda: f"{e('str')}.{self.pick('split', 'rsplit')}({self.pick('', chr(39) + ',' + chr(39), 'none, 1', chr(39) + 'a' + chr(39) + ', 1')})[{self.pick('0', '-1')}]",
            lambda: f"{e('str')}.{self.pick('ljust', 'rjust', 'center')}({self.r.randint(0, 12)})",
            lambda: f"{e('str')}.{self.pick('removeprefix', 'removesuffix')}({e('str')})",
            lambda: f"({e('str')} if {e('bool')} else {e('str')})",
            lambda: f"({e('str')} * {self.r.randint(-1, 3)})",
            lambda: f"({e('str')}|indent({self.r.randint(0, 4)}{self.pick('', ', true', ', false, true')}))",
            lambda: f"{self.pick(repr('%s-%s'), repr('%5s|%-4s'), repr('%r %s'))}|format({e()}, {e()})",
            lambda: f"'{{}}/{{}}'.format({e('str')}, {e('int')})",
            lambda: f"{e('str')}.join({e('str')}.split())",
            lambda: f"({e('int')}|string)",
            lambda: f"f({e()}{self.pick('', ', b=1', ', ' + e('str'))})",
        )()

    def make_int(self):
        e = self.expr
        return self.pick(
            lambda: f"({e('int')} {self.pick('+', '-', '*')} {e('int')})",
            lambda: f"({e('int')} {self.pick('//', '%')} {self.pick('2', '3', '-2', e('int'))})",
            lambda: f"({e(self.pick('str', 'list', 'dict'))}|length)",
            lambda: f"({e(self.pick('str', 'float', 'int'))}|int{self.pick('', '(7)')})",
            lambda: f"(-{e('int')})",
            lambda: f"({e('int')}|abs)",
            lambda: f"(nums|{self.pick('sum', 'min', 'max', 'first', 'last')})",
            lambda: f"{e('str')}.{self.pick('find', 'count', 'rfind')}({e('str')})",
            lambda: f"({e('str')}|wordcount)",
            lambda: f"({e('int')} if {e('bool')} else {e('int')})",
            lambda: f"({e('int')} ** {self.r.randint(0, 2)})",
            lambda: f"words.index({e('str')})",
        )()

    def make_float(self):
        e = self.expr
        return self.pick(
            lambda: f"({e('float')} {self.pick('+', '-', '*')} {e('int')})",
            lambda: f"({e('int')} / {self.pick('2', '4', e('int'))})",
            lambda: f"({e('float')}|round({self.r.randint(0, 3)}{self.pick('', ', ' + repr('ceil'), ', ' + repr('floor'))}))",
            lambda: f"({e('str')}|float{self.pick('', '(1.5)')})",
            lambda: f"({e('float')} {self.pick('//', '%')} {self.pick('2', '-0.5')})",
        )()

    def make_bool(self):
        e = self.expr
        return self.pick(
            lambda: f"({e()} {self.pick('==', '!=')} {e()})",
            lambda: f"({e('int')} {self.pick('<', '<=', '>', '>=')} {e(self.pick('int', 'float'))})",
            lambda: f"({e('str')} {self.pick('<', '>=')} {e('str')})",
            lambda: f"({e('int')} < {e('int')} <= {e('int')})",
            lambda: f"({e('str')} {self.pick('in', 'not in')} {e(self.pick('str', 'list', 'dict'))})",
            lambda: f"(not {e()})",
            lambda: f"({e('bool')} {self.pick('and', 'or')} {e('bool')})",
            lambda: f"({e()} is {self.pick('', 'not ')}{self.pick('defined', 'none', 'string', 'number', 'integer', 'float', 'boolean', 'mapping', 'sequence', 'iterable', 'true', 'false', 'undefined')})",
            lambda: f"({e('int')} is {self.pick('odd', 'even', 'divisibleby 3', 'divisibleby(2)', 'eq 2', 'gt 1', 'in [1, 2, 3]')})",
            lambda: f"{e('str')}.{self.pick('startswith', 'endswith')}({e('str')})",
            lambda: f"{e('str')}.{self.pick('isdigit', 'isalpha', 'isalnum', 'isspace', 'isupper', 'islower')}()",
            lambda: f"({e('str')} is {self.pick('lower', 'upper')})",
        )()

    def make_list(self):
        e = self.expr
        return self.pick(
            lambda: "[" + ", ".join(e() for _ in range(self.r.randint(0, 3))) + "]",
            lambda: "(" + "".join(e() + ", " for _ in range(self.r.randint(1, 3))) + ")",
            lambda: f"({e('list')} + {e('list')})",
            lambda: f"{e('list')}[{self.pick('1:', ':-1', '::-1', '-2:', ':2', '::2', '5:1:-1')}]",
            lambda: f"({e('list')}|list)",
            lambda: f"({e('list')}|reverse|list)",
            lambda: f"({self.pick('nums', 'words', e('str'))}|sort{self.pick('', '(reverse=true)', '(case_sensitive=true)')})",
            lambda: f"({self.pick('nums', 'words', e('str'))}|unique|list)",
            lambda: f"({e('list')}|map({self.pick(repr('string'), repr('upper'), repr('length'), repr('default'), repr('tojson'))})|list)",
            lambda: f"(messages|map(attribute={self.pick(repr('role'), repr('content'), repr('nope'), repr('content.0'))})|list)",
            lambda: f"(messages|{self.pick('selectattr', 'rejectattr')}({self.pick(repr('role') + ', ' + repr('equalto') + ', ' + repr('user'), repr('content'), repr('tool_calls') + ', ' + repr('defined'), repr('role') + ', ' + repr('in') + ', [' + repr('user') + ']')})|list)",
            lambda: f"({e('list')}|{self.pick('select', 'reject')}({self.pick('', repr('string'), repr('defined'), repr('mapping'), repr('none'))})|list)",
            lambda: f"(range({self.r.randint(0, 6)}{self.pick('', ', 8', ', 9, 2', ', -4, -2')})|list)",
            lambda: f"{e('str')}.{self.pick('split', 'rsplit')}({self.pick('', e('str'), 'none, 2', chr(39) + ' ' + chr(39))})",
            lambda: f"{e('str')}.splitlines()",
            lambda: f"({e('dict')}|{self.pick('dictsort', 'items|list', 'list')})",
            lambda: f"({e('dict')}.{self.pick('keys', 'values', 'items')}()|list)",
            lambda: f"({e('list')}|{self.pick('batch(2)', 'batch(2, 0)', 'slice(2)', 'slice(2, 9)')}|list)",
            lambda: f"({e('list')} * {self.r.randint(0, 2)})",
            lambda: f"({e('str')}|list)",
        )()

    def make_dict(self):
        e = self.expr
        return self.pick(
            lambda: "{" + ", ".join(f"{self.pick(e('str'), e('int'))}: {e()}" for _ in range(self.r.randint(0, 3))) + "}",
            lambda: f"dict({self.pick('', e('dict') + ', ')}a={e()})",
            lambda: f"({e('dict')} if {e('bool')} else {e('dict')})",
        )()

    def make_any(self):
        e = self.expr
        return self.pick(
            lambda: f"{e('dict')}.{self.pick('name', 'role', 'a', 'items')}" if self.r.random() < 0.5 else f"{e('dict')}['{self.pick('name', 'role', 'a')}']",
            lambda: f"{e('dict')}.get({e('str')}{self.pick('', ', ' + e())})",
            lambda: f"{e('list')}[{self.r.randint(-2, 3)}]",
            lambda: f"({e()} {self.pick('and', 'or')} {e()})",
            lambda: f"({e('list')}|{self.pick('first', 'last')})",
            lambda: f"({e()} {self.pick('+', '-', '*', '/', '%', '<', 'in')} {e()})",
            lambda: f"({e()}|{self.pick('length', 'upper', 'int', 'float', 'list', 'join', 'trim', 'tojson', 'first', 'sum', 'default(3)', 'abs', 'string', 'items|list', 'max', 'min', 'unique|list', 'sort')})",
            lambda: f"({e()} if {e('bool')})",
            lambda: f"(loop.{self.pick('previtem', 'nextitem', 'revindex', 'revindex0', 'depth')})",
            lambda: f"loop.cycle({e()}, {e()})",
            lambda: f"loop.changed({e('int')})",
        )()

    # ---- statements ----

    def space(self):
        return self.pick("", "", "\n", "  ", "\n  ", " text ", "a\n", "\t", "\n\n")

    def tag(self, body):
        return "{%" + self.pick("", "", "-", "+") + " " + body + " " + self.pick("", "", "-", "+") + "%}"

    def block(self, depth, in_loop):
        out = []
        for _ in range(self.r.randint(1, 3)):
            out.append(self.space())
            out.append(self.statement(depth, in_loop))
        out.append(self.space())
        return "".join(out)

    def statement(self, depth, in_loop):
        e, b, t = self.expr, self.block, self.tag
        what = self.r.random()
        if depth > 3 or what < 0.4:
            return "{{" + self.pick("", "-") + " " + e() + " " + self.pick("", "-") + "}}"
        if what < 0.45:
            return "{#" + self.pick("", "-") + " note " + self.pick("", "-", "+") + "#}"
        if what < 0.6:
            target, source = self.pick(("m", "messages"), ("i", "nums"), ("k, v", e("dict") + ".items()"), ("x", e("list")), ("(k, v)", "ages|items"), ("x", e()))
            cond = f" if {e('bool')}" if self.r.random() < 0.2 else ""
            other = t("else") + b(depth + 1, in_loop) if self.r.random() < 0.2 else ""
            return t(f"for {target} in {source}{cond}") + b(depth + 1, True) + other + t("endfor")
        if what < 0.75:
            out = t(f"if {e(self.pick('bool', 'any'))}") + b(depth + 1, in_loop)
            if self.r.random() < 0.3:
                out += t(f"elif {e('bool')}") + b(depth + 1, in_loop)
            if self.r.random() < 0.4:
                out += t("else") + b(depth + 1, in_loop)
            return out + t("endif")
        if what < 0.83:
            target = self.pick("x", "v", "ns.a", "k", "x, v")
            return t(f"set {target} = {e() + ', ' + e() if ',' in target else e()}")
        if what < 0.87:
            return t("set x" + self.pick("", " | upper", " | trim | length")) + b(depth + 1, False) + t("endset")
        if what < 0.9:
            return t("filter " + self.pick("upper", "trim", "indent(2)", "replace('a', 'b')")) + b(depth + 1, False) + t("endfilter")
        if what < 0.92:
            return t("generation") + b(depth + 1, False) + t("endgeneration")
        if what < 0.94:
            return t(f"macro f(a, b={e()})") + b(depth + 2, False) + t("endmacro")
        if what < 0.955:
            return t(f"with x = {e()}") + b(depth + 1, False) + t("endwith")
        if what < 0.97:
            return t("call g(2)") + b(depth + 2, False) + t("endcall")
        if in_loop:
            return t(f"if {e('bool')}") + t(self.pick("break", "continue")) + t("endif")
        return t("raw") + "{{ x }}{% if %}" + t("endraw")


def random_case(rng):
    g = Gen(rng)
    head = "{% set ns = namespace(a=1) %}{% macro f(a, b='B') %}<{{ a }}|{{ b }}>{% endmacro %}{% macro g(n) %}({{ caller() * n }}){% endmacro %}"
    return head + g.block(0, False)
