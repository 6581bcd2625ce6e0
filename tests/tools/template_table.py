"""The cases of make_template_cases.py: VARS, TABLE of (template, variables or None for VARS), CHATS of (name, variables)."""

VARS = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  Hello, World!\nHow's it going?  "},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nFine.", "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": [2.5, None, True]}}}]},
        {"role": "tool", "content": "3"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image"}]},
    ],
    "text": "The quick brown fox, the lazy dog",
    "word": "token",
    "empty": "",
    "uni": "Größe λ→日本 \U0001f600",
    "n": 7,
    "zero": 0,
    "neg": -3,
    "pi": 3.14159,
    "yes": True,
    "no": False,
    "none_value": None,
    "nums": [3, 1, 2, 10, 2],
    "words": ["beta", "Alpha", "gamma", "alpha"],
    "nested": [[1, "a"], [2, "b"], [3, [4, "c"]]],
    "tool": {"name": "add", "description": "Adds <b> & 'c'", "args": ["x", "y"], "strict": True, "limit": None, "meta": {"é": 1.5, "a": []}},
    "ages": {"zoe": 30, "Adam": 4, "bob": 17},
    "bos_token": "<s>",
    "eos_token": "</s>",
    "add_generation_prompt": True,
}

TABLE = [(t, None) for t in [
    # text, output, undefined
    "", "plain", "{{ word }}", "a{{ missing }}b", "{{ missing.x }}", "{{ missing['x'] }}", "{{ tool.absent }}", "{{ tool.absent.deeper }}",
    "{{ none_value }}|{{ yes }}|{{ no }}|{{ pi }}|{{ n }}", "{{ none_value.foo }}|{{ n.foo }}", "{{ missing() }}", "{{ missing + 'a' }}", "{{ missing ~ 'a' }}",
    "{{ missing|length }}{{ missing|list }}{{ missing|upper }}{{ missing|join }}{{ missing|int }}", "{% for x in missing %}x{% else %}none{% endfor %}",
    "{{ 'a' in missing }}", "{{ missing == missing2 }}{{ missing == none }}{{ missing == '' }}", "{{ missing|tojson }}", "{{ [missing] }}", "{{ missing < 1 }}",
    # whitespace control
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "a\n  {% if true %}  \n  b\n  {% endif %}\nc", "a  {%- if true -%}  b  {%- endif -%}  c", "  {%+ if true %}b{% endif +%}\n c",
    "{# note #}\na\n  {# note #}\nb {#- x -#} c", "{#\nmulti\n#}\nx", "x {{- ' y ' -}} z", "x\n\n{{- 'y' -}}\n\nz", "  {{ 'x' }}\n  {{ 'y' }}\n", "a\r\nb\rc\n", "a\n\n", "\n{% set x = 1 %}\n{{ x }}\n",
    "{% raw %}\n {{ x }} {% if %}\n{% endraw %}\nafter", " {% raw -%}\n {{ x }} {%- endraw -%} \n after", "{% for i in [1,2] %}\n  {{ i }}\n{% endfor %}\n",
    "\u00a0\u3000{%- if true %}x{% endif %}", "{%- set x = 1 -%}\n\n{{- x -}}\n", "{% if true %} \n{% endif %}|", "{{ 'a' }}\n{{ 'b' }}", "{{'a'}}  \n\t{% if true %}b{% endif %}",
    # literals
    "{{ 'a' 'b' \"c\" }}", r"{{ 'a\n\t\\\'\"\x41\u00e9\U0001f600\101\q\0' }}|", "{{ 'line\nbreak' }}", "{{ 1_000 }} {{ 0x1F }} {{ 0b101 }} {{ 0o17 }} {{ 1.5e3 }} {{ 2e-7 }} {{ 1.0 }} {{ 1e16 }} {{ 123456789012345678 }}",
    "{{ [1, 'a', none, true, 1.5, [2], (3,), {'k': 'v'}] }}", "{{ () }}{{ (1,) }}{{ (1, 2) }}{{ 1, 2 }}", "{{ {'a': 1, 2: 'b', none: [], (1, 2): 3} }}", "{{ {} }}{{ [] }}", "{{ 'it\\'s' ~ [\"it's\", 'say \"x\"', 'b\\\\c', '\\n\\x00\\x7f\\xa0é\\u200b'] }}",
    "{{ {'a': 1,}['a'] }}{{ [1,][0] }}", "{{ {'a': 1, 'a': 2} }}", "{{ {1: 'a', 1.0: 'b', true: 'c'} }}", "{{ True }}{{ False }}{{ None }}{{ none }}",
    # arithmetic
    "{{ 7 // 2 }} {{ -7 // 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }}", "{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7 % 2.5 }} {{ 1.1 + 2.2 }} {{ 1e308 * 10 }} {{ 0.1 }}",
    "{{ 1 / 0 }}", "{{ 1 % 0 }}", "{{ 5 - 3 - 1 }} {{ 2 + 3 * 4 }} {{ (2 + 3) * 4 }} {{ -2 ** 2 }} {{ +3 }} {{ - 3 }}", "{{ true + 1 }} {{ true == 1 }} {{ false * 3 }}", "{{ 'ab' * 3 }} {{ [1] * 2 }} {{ 3 * 'x' }} {{ 'x' * -1 }}",
    "{{ 'a' + 1 }}", "{{ 1 ~ 2 ~ none ~ 'x' ~ 1.5 ~ [1] }}", "{{ [1] + [2, 3] }} {{ (1,) + (2,) }}", "{{ [1] + (2,) }}", "{{ 'a' - 'b' }}", "{{ 1 + 2 ~ 3 + 4 }}", "{{ 10 ** 3 }} {{ 2.0 ** 3 }} {{ 9 ** 0.5 }}",
    # comparison and logic
    "{{ 1 < 2 }} {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ 1 == 1.0 }} {{ '1' == 1 }} {{ 2 >= 2 }} {{ 1 != 2 }}", "{{ 1 < 'a' }}", "{{ none < 1 }}", "{{ 'a' in 'cat' }} {{ 'x' not in 'cat' }} {{ 1 in [1] }} {{ 'name' in tool }} {{ 'x' in () }}", "{{ 1 in 'a' }}", "{{ 1 in 5 }}",
    "{{ not true }} {{ not '' }} {{ not not 1 }} {{ 1 and 0 }} {{ 0 or 'x' }} {{ '' or none }} {{ 1 and 'y' or 'z' }}", "{{ not 1 == 2 }} {{ not 'a' in 'b' }}", "{{ 'y' if yes else 'n' }} {{ 'y' if no else 'n' }} {{ 'y' if no }}|{{ 'a' if no else 'b' if no else 'c' }}",
    "{{ [1, 2] == [1, 2] }} {{ (1,) == [1] }} {{ {'a': 1, 'b': 2} == {'b': 2, 'a': 1} }} {{ none == none }}", "{{ 1 == 1 == 1 }} {{ 3 > 2 > 1 in [1] }}", "{{ true is true }} {{ 1 is true }} {{ 'a' if not missing is defined }}",
    # access
    "{{ messages[0].role }} {{ messages[-1]['role'] }} {{ messages[99] }} {{ messages['x'] }} {{ text[0] }} {{ text[-1] }} {{ uni[6] }} {{ uni[-1] }} {{ text[99] }}|", "{{ nested[2][1][1] }} {{ nested.2.1.0 }} {{ tool.meta.a }} {{ tool['name'] }}", "{{ tool.items is callable }} {{ tool.get('name') }} {{ tool.get('zz') }} {{ tool.get('zz', 5) }}",
    "{{ text[4:9] }}|{{ text[:3] }}|{{ text[-3:] }}|{{ text[::-1] }}|{{ text[::5] }}|{{ uni[2:8] }}|{{ uni[::-1] }}|{{ text[5:2] }}|{{ text[:] }}|{{ text[100:] }}", "{{ nums[1:3] }} {{ nums[::-1] }} {{ nums[::2] }} {{ nums[-2:] }} {{ nums[10:0:-2] }} {{ nums[:-1] }} {{ (1, 2, 3)[1:] }}", "{{ nums[::0] }}", "{{ nums['a':] }}", "{{ missing[1:] }}", "{{ n[1:] }}|",
    "{{ nums[true] }} {{ nums[1.0] }}|", "{{ 'abc'.upper()[1] }} {{ ('a' ~ 'b')[1] }} {{ [1, 2][1] }} {{ {'x': 3}.x }}", "{{ tool.name.upper().lower() }}", "{{ messages[2].tool_calls[0].function.arguments.b[0] }}",
    # statements
    "{% if n > 5 %}big{% elif n > 2 %}mid{% else %}small{% endif %}", "{% if zero %}a{% elif empty %}b{% elif none_value %}c{% else %}d{% endif %}", "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ m.role }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for i in nums %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.previtem }}{{ loop.nextitem }};{% endfor %}", "{% for i in nums if i > 2 %}{{ loop.index }}:{{ i }}/{{ loop.length }} {% else %}no{% endfor %}", "{% for i in [] %}a{% else %}empty{% endfor %}",
    "{% for k, v in ages.items() %}{{ k }}={{ v }};{% endfor %}{% for k in ages %}{{ k }}{% endfor %}{% for c in 'añb' %}[{{ c }}]{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [1, 2] %}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for x in 5 %}{% endfor %}",
    "{% for i in nums %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "{% for i in nums %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "{% for i in [1] %}{% break %}{% else %}else{% endfor %}", "{% for i in range(3) %}{% for j in range(i) %}{{ i }}{{ j }}{{ loop.index }} {% endfor %}{{ loop.index }}{% endfor %}", "{% break %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + 1 %}{{ x }}{% endfor %}{{ x }}", "{% set ns = namespace(n=0, s='') %}{% for i in nums %}{% set ns.n = ns.n + i %}{% set ns.s = ns.s ~ i %}{% endfor %}{{ ns.n }} {{ ns.s }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a.b = 1 %}", "{% if true %}{% set y = 5 %}{% endif %}{{ y }}", "{% for i in [1] %}{% set z = 5 %}{% endfor %}{{ z }}|",
    "{% set x %}a{{ n }}\nb{% endset %}[{{ x }}]", "{% set x | upper | replace('B', 'c') %}abc{% endset %}{{ x }}", "{% set ns = namespace(a=1) %}{% set ns.b %}txt{% endset %}{{ ns.b }}{{ ns.a }}{{ ns.c }}", "{% set x = 1, 2 %}{{ x }}", "{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns['b'] }}",
    "{% macro f(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f(1) }} {{ f(1, c=5) }} {{ f() }} {{ f(a=3, b=4) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}", "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, k=4) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}",
    "{% macro outer(x) %}{% macro inner(y) %}{{ x }}{{ y }}{% endmacro %}{{ inner(2) }}{% endmacro %}{{ outer(1) }}", "{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% macro f() %}{{ later }}{% endmacro %}{% set later = 'x' %}{{ f() }}", "{% macro f() %}{{ i }}{% endmacro %}{% for i in [1] %}{{ f() }}{% endfor %}|", "{% macro f() %}{{ f is callable }}{% endmacro %}{{ f()|upper }}{{ f|string is string }}",
    "{% macro box(t) %}<{{ t }}:{{ caller() }}>{% endmacro %}{% call box('x') %}in{{ n }}{% endcall %}", "{% macro each(l) %}{% for i in l %}{{ caller(i, loop.index) }}{% endfor %}{% endmacro %}{% call(i, k) each(words) %}{{ k }}{{ i }} {% endcall %}", "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}", "{% filter upper %}a{{ word }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}banana{% endfilter %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}|", "{% generation %}a{% set q = 1 %}{{ q }}{% endgeneration %}{{ q }}|", "{% print n %}",
    "{% macro f(a, *args) %}{% endmacro %}", "{% macro g(a, b, c) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ g(*[1, 2], c=3) }}{{ g(**{'a': 1, 'b': 2, 'c': 3}) }}", "{% for i in range(2) %}{% set m %}{% for j in range(2) %}{{ i }}{{ j }}{% endfor %}{% endset %}[{{ m }}]{% endfor %}", "{{ loop }}{{ loop.index }}",
    "{% for i in nums %}{{ loop.cycle('a', 'b') }}{% if loop.changed(i) %}*{% endif %}{% endfor %}", "{% for i in nums %}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}",
    # tests
    "{{ 1 is integer }}{{ true is integer }}{{ 1.0 is float }}{{ 1 is number }}{{ true is number }}{{ 'a' is number }}{{ true is boolean }}{{ 1 is boolean }}", "{{ 'a' is string }}{{ [] is sequence }}{{ () is iterable }}{{ {} is mapping }}{{ 1 is iterable }}{{ 'a' is iterable }}{{ missing is sequence }}{{ {} is sequence }}{{ none is none }}{{ 0 is none }}",
    "{{ 3 is odd }}{{ 4 is even }}{{ 9 is divisibleby 3 }}{{ 9 is divisibleby(2) }}{{ 1 is eq 1 }}{{ 1 is ne 1 }}{{ 1 is lt 2 }}{{ 1 is ge(2) }}{{ 2 is in [1, 2] }}{{ 'a' is in 'abc' }}{{ 1 is sameas 1 }}{{ 1 is sameas true }}", "{{ 'abc' is lower }}{{ 'ABC' is upper }}{{ 'aBC' is lower }}{{ '1' is lower }}{{ 'x' is filter }}{{ 'upper' is filter }}{{ 'odd' is test }}", "{{ n is not defined }}{{ missing is not defined }}{{ tool.name is defined }}{{ tool.zz is defined }}", "{{ n is equalto 7 and word is string }}{{ n is defined or 1 }}{{ 'x' if n is defined else 'y' }}", "{{ 1 is nosuch }}", "{{ 'a' is odd }}", "{{ range is callable }}{{ word is callable }}", "{{ missing.x is defined }}", "{{ 3 is odd == true }}", "{{ 1 is integer is integer }}",
    # filters
    "{{ ' a '|trim }}|{{ 'xxaxx'|trim('x') }}|{{ 'aBc'|upper }}{{ 'aBc'|lower }}{{ 'hello wORLD-foo (bar'|title }}{{ 'hELLO'|capitalize }}", "{{ nums|length }}{{ word|length }}{{ uni|length }}{{ tool|count }}{{ n|length }}", "{{ nums|first }}{{ nums|last }}{{ []|first }}{{ 'abc'|first }}{{ 'abc'|last }}{{ ages|first }}", "{{ nums|join(', ') }}|{{ words|join }}|{{ messages|join('/', attribute='role') }}|{{ 'abc'|join('-') }}|{{ [1, none, 'a']|join('+') }}",
    "{{ missing|default('d') }}{{ ''|default('d') }}|{{ ''|default('d', true) }}{{ none|d('x') }}{{ none|d('x', boolean=true) }}{{ missing|default }}|", "{{ words|sort }}{{ words|sort(reverse=true) }}{{ words|sort(case_sensitive=true) }}{{ nums|sort }}{{ messages|sort(attribute='role')|map(attribute='role')|list }}", "{{ [1, 'a']|sort }}", "{{ words|unique|list }}{{ nums|unique|list }}{{ words|unique(case_sensitive=true)|list }}", "{{ nums|sum }}{{ nums|min }}{{ nums|max }}{{ words|min }}{{ words|max }}{{ []|max }}|{{ []|sum }}{{ nested|sum(attribute=0) }}{{ [1.5, 2]|sum }}",
    "{{ nums|reverse|list }}{{ 'añc'|reverse }}", "{{ ages|dictsort }}{{ ages|dictsort(by='value') }}{{ ages|dictsort(case_sensitive=true, reverse=true) }}", "{{ ages|items|list }}{{ missing|items|list }}{{ n|items|list }}", "{{ messages|map(attribute='role')|join(',') }}{{ words|map('upper')|list }}{{ messages|map(attribute='zz', default='q')|list }}{{ words|map('replace', 'a', 'o')|list }}{{ nested|map('first')|list }}{{ words|map('nosuch')|list }}",
    "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ messages|rejectattr('role', 'in', ['user', 'system'])|map(attribute='role')|list }}{{ messages|selectattr('tool_calls')|list|length }}{{ messages|selectattr('tool_calls', 'defined')|list|length }}", "{{ nums|select('odd')|list }}{{ nums|reject('gt', 2)|list }}{{ [0, 1, '', 'a']|select|list }}{{ nums|select('==', 2)|list }}", "{{ 'a b'|replace(' ', '_') }}{{ 'aaa'|replace('a', 'b', 2) }}{{ 'ab'|replace('', '-') }}{{ 5|replace('5', 'x') }}", "{{ '42'|int }}{{ 'x'|int }}{{ 'x'|int(9) }}{{ '3.9'|int }}{{ 3.9|int }}{{ none|int }}{{ '0x1f'|int(0, 16) }}{{ ' 12 '|int }}{{ '1_0'|int }}{{ true|int }}{{ '-5'|int }}{{ '1e2'|int }}",
    "{{ '1.5'|float }}{{ 'x'|float }}{{ 2|float }}{{ 'x'|float(2.5) }}{{ '1e3'|float }}{{ 'inf'|float }}", "{{ 2.5|round }}{{ 3.5|round }}{{ 2.675|round(2) }}{{ 5|round }}{{ 2.1|round(0, 'ceil') }}{{ 2.9|round(method='floor') }}{{ 1234|round(-2) }}{{ 1.25|round(1) }}", "{{ -3|abs }}{{ (-3.5)|abs }}{{ 'a'|abs }}", "{{ '<a href=\"x\">&\\'</a>'|e }}{{ '<'|escape }}{{ '<'|safe }}", "{{ 'a\nb\n\nc'|indent }}|{{ 'a\nb'|indent(2, true) }}|{{ 'a\n\nb'|indent(2, blank=true) }}|{{ 'a\nb'|indent('> ') }}|{{ 'a\n'|indent }}|{{ ''|indent(first=true) }}", "{{ 'a b  c_d e-f'|wordcount }}", "{{ [1, 2, 3, 4, 5]|batch(2)|list }}{{ [1, 2, 3]|batch(2, 'x')|list }}{{ [1, 2, 3, 4, 5]|slice(3)|list }}{{ [1, 2, 3, 4]|slice(3, 'f')|list }}",
    "{{ 'abc'|list }}{{ ages|list }}{{ (1, 2)|list }}{{ 5|list }}", "{{ 5|string ~ 1 }}{{ none|string }}{{ [1]|string }}", "{{ '%s is %d and %.2f'|format('x', 5, 1.239) }}{{ '%(a)s'|format(a=1) }}{{ '%5d|%-5s|%05.1f|%+d|%x|%X|%o|%%|%r|%e|%g|%.2s|%#x' % (42, 'ab', 3.14159, 7, 255, 255, 8, 'q', 12345.678, 0.0001, 'abc', 255) }}", "{{ '%d' % 'a' }}", "{{ '%s %s' % 'a' }}", "{{ '%s' % ('a', 'b') }}", "{{ '%s' % [1, 2] }}{{ '%s' % {'a': 1} }}{{ '%(a)s' % {'a': 1} }}", "{{ words|nosuch }}", "{{ 'a'|upper|lower|upper }}{{ -1|abs }}{{ 'x'|default('y')|upper ~ 'z' }}", "{{ none|upper }}{{ 5|upper }}{{ [1]|trim }}",
    # tojson
    "{{ tool|tojson }}", "{{ tool|tojson(indent=2) }}", "{{ tool|tojson(indent=4, sort_keys=true) }}", "{{ uni|tojson }}{{ uni|tojson(ensure_ascii=true) }}", "{{ 'a\"b\\\\c\\n\\t\\x00\\x1f\\x7f/\\b\\f\\r<>&'|tojson }}", "{{ [1, 1.5, 1e20, true, none, [], {}, (1, 2), '']|tojson }}", "{{ [[], {}, [1], {'a': []}]|tojson(indent=1) }}", "{{ {1: 2, 'a': 3, none: 4, true: 5, 1.5: 6}|tojson }}", "{{ nums|tojson(separators=(',', ':')) }}{{ tool.meta|tojson(separators=(',', ':')) }}", "{{ ('inf'|float)|tojson }}", "{{ range|tojson }}", "{{ [missing]|tojson }}", "{{ 'x'|tojson(indent=2) }}{{ nums|tojson(indent=none) }}{{ nums|tojson(indent='--') }}{{ nums|tojson(indent=0) }}",
    # methods
    "{{ ' a '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ ' a '.lstrip() }}|{{ ' a '.rstrip() }}|{{ '\\n\\u3000a\\n'.strip() }}|{{ 'abcba'.strip('ab') }}", "{{ 'a,b,,c'.split(',') }}{{ ' a  b c '.split() }}{{ 'a,b,c'.split(',', 1) }}{{ 'a b c'.rsplit(' ', 1) }}{{ ' a  b  c '.rsplit(none, 1) }}{{ ' a  b  c '.split(none, 1) }}{{ ''.split(',') }}{{ ''.split() }}{{ 'abc'.split('abc') }}{{ 'a<x>b'.split('<x>')[-1] }}", "{{ 'a'.split('') }}",
    "{{ 'Hello'.startswith('He') }}{{ 'Hello'.startswith(('a', 'H')) }}{{ 'Hello'.endswith('lo') }}{{ 'x'.startswith('') }}{{ 'x'.endswith('xx') }}", "{{ 'x'.startswith(1) }}", "{{ 'aXb'.upper() }}{{ 'aXb'.lower() }}{{ 'the end'.title() }}{{ \"don't stop\".title() }}{{ 'aBC'.capitalize() }}{{ 'aBc'.swapcase() }}{{ 'éÀ'.upper() }}{{ 'éÀ'.lower() }}", "{{ 'aXbX'.replace('X', '-') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'ab'.replace('', '.') }}{{ 'abc'.replace('b', '') }}{{ 'aa'.replace('a', 'aa') }}", "{{ 'hello'.find('l') }}{{ 'hello'.rfind('l') }}{{ 'hello'.find('z') }}{{ 'héllo'.index('l') }}{{ 'hello'.count('l') }}{{ 'aaa'.count('') }}{{ 'aaaa'.count('aa') }}", "{{ 'a'.index('z') }}",
    "{{ ', '.join(words) }}{{ '-'.join('abc') }}", "{{ ','.join([1]) }}", "{{ '12'.isdigit() }}{{ ''.isdigit() }}{{ 'a1'.isalnum() }}{{ 'ab'.isalpha() }}{{ ' \\n'.isspace() }}{{ 'AB'.isupper() }}{{ 'ab'.islower() }}{{ '1'.isupper() }}{{ 'é'.isalpha() }}", "{{ '{} and {}'.format(1, 'b') }}{{ '{0}{1}{0}'.format('a', 'b') }}{{ '{x}'.format(x=5) }}{{ '{{}}'.format() }}", "{{ '{}'.format() }}", "{{ 'a\\nb\\r\\nc\\n'.splitlines() }}{{ 'a\\nb'.splitlines(true) }}{{ ''.splitlines() }}", "{{ 'ab'.ljust(5) }}|{{ 'ab'.rjust(5) }}|{{ 'ab'.center(5) }}|{{ 'abc'.center(6) }}|{{ 'a'.ljust(3, '*') }}", "{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.txt'.removesuffix('.txt') }}{{ 'x'.removeprefix('y') }}",
    "{{ ages.keys()|list }}{{ ages.values()|list }}{{ ages.items()|list }}{{ ages.get('bob') }}", "{{ nums.index(10) }}{{ nums.count(2) }}{{ (1, 2).index(2) }}{{ (1, 1).count(1) }}", "{{ nums.index(99) }}", "{{ word.nosuch() }}", "{{ word.upper }}"[:0], "{{ n.upper() }}", "{{ 'a'.upper(1) }}", "{{ tool.items()|length }}{{ tool.description.split()[0] }}", "{{ dict(a=1, b=2) }}{{ dict({'a': 1}, b=2) }}{{ dict([('a', 1)]) }}{{ dict() }}", "{{ {'items': 1}['items'] }}{{ {'items': 1}.items()|list }}", "{{ {'keys': 5}.keys is callable }}",
    # globals
    "{{ range(3)|list }}{{ range(1, 4)|list }}{{ range(5, 0, -2)|list }}{{ range(0)|list }}{% for i in range(2, 4) %}{{ i }}{% endfor %}", "{{ range(100001) }}", "{{ range(1, 2, 0) }}", "{{ range('a') }}", "{{ raise_exception('no ' ~ n) }}", "{% if messages[0].role != 'user' %}{{ raise_exception('Roles!') }}{% endif %}", "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d') }}", "{% set range = 5 %}{{ range }}", "{{ namespace }}"[:0],
    # syntax errors
    "{{", "{% if %}", "{% if x %}", "{{ x", "{{ x }", "{% endfor %}", "{% for x in %}{% endfor %}", "{{ (1 }}", "{{ 1 + }}", "{{ 'a }}", "{# x", "{% set %}", "{{ x | }}", "{% nosuch %}", "{{ a b }}", "{{ }}", "{% for 1 in x %}{% endfor %}", "{{ [1, 2 }}", "{{ {'a' 1} }}", "{% if true %}{% else %}{% else %}{% endif %}", "{{ a..b }}", "{{ 1.2.3 }}", "{% macro f(a=1, b) %}{% endmacro %}", "{{ f(a=1, 2) }}", "{% raw %}x", "{{ $ }}", "{{ x is }}", "{{ not }}", "}} %} #}", "{ { x } }", "{{ '{{' }}{{ '%}' }}", "{{ {'a': {'b': 1}}}}", "{{ {'a': {'b': 1}}.a.b}}",
]]

TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "its name"}, "unit": {"type": "string", "enum": ["C", "F"]}}, "required": ["city"]}}}]
_BASE = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True}
_USER = {"role": "user", "content": "What is  2 + 2?\n"}
_CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "call12345", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "unit": "C"}}}]}
_RESULT = {"role": "tool", "name": "get_weather", "tool_call_id": "call12345", "content": "{\"temp\": 7}"}

CHATS = [
    ("one question", {**_BASE, "messages": [_USER]}),
    ("no generation prompt", {**_BASE, "add_generation_prompt": False, "messages": [_USER, {"role": "assistant", "content": " Four. "}]}),
    ("system and turns", {**_BASE, "messages": [{"role": "system", "content": "You are terse."}, _USER, {"role": "assistant", "content": "<think>\nadd\n</think>\n\n4"}, {"role": "user", "content": "And 3 + 3? \U0001f914"}]}),
    ("thinking off", {**_BASE, "enable_thinking": False, "messages": [_USER]}),
    ("content parts", {**_BASE, "messages": [{"role": "user", "content": [{"type": "text", "text": "What is this?"}]}]}),
    ("wrong order", {**_BASE, "messages": [{"role": "assistant", "content": "hi"}, {"role": "assistant", "content": "ho"}]}),
    ("tools", {**_BASE, "tools": TOOLS, "messages": [{"role": "system", "content": "Use tools."}, {"role": "user", "content": "Weather in Zürich?"}]}),
    ("tool call and result", {**_BASE, "tools": TOOLS, "date_string": "01 Jan 2025", "messages": [{"role": "user", "content": "Weather?"}, _CALL, _RESULT]}),
    ("two results", {**_BASE, "tools": TOOLS, "messages": [{"role": "user", "content": "Weather?"}, _CALL, _RESULT, _RESULT, {"role": "assistant", "content": "7 degrees"}, {"role": "user", "content": "Thanks"}]}),
    ("empty", {**_BASE, "messages": []}),
    ("long", {**_BASE, "messages": [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(21)]}),
]
