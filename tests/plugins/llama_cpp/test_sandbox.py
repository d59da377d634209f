"""Templates from strangers: they can't reach Python, nor take unbounded time or memory."""

from __future__ import annotations

import itertools
import json
import resource
import sys

import jinja2
import jinja2.exceptions
import pytest

from localllm_llama_cpp.sandbox import MAX_OUTPUT_CHARS, SandboxedTemplate, TemplateLimitError, TemplateRaisedError

ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__ }}",
    "{{ messages[0].__init__.__globals__ }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ joiner.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__['os'].environ }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now.__globals__['sys'].modules }}",
    "{{ range.__globals__ }}",
    "{{ self.__init__.__globals__.__builtins__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ lipsum.__globals__ }}",
    "{{ ''|attr('__class__') }}",
    "{{ ()|attr('__class__')|attr('__base__') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{{ '{x.__class__}'.format_map({'x': messages}) }}",
    "{{ ['__class__']|map(attribute='__class__')|list }}",
    "{{ messages|map(attribute='__class__')|list }}",
    "{% set f = ''.format %}{{ f.__self__.__class__ }}",
    "{% macro m() %}{{ caller.__globals__ }}{% endmacro %}{% call m() %}{% endcall %}",
    "{% macro m() %}{% endmacro %}{{ m.__init__.__globals__ }}",
    "{% include 'secret' %}",
    "{% import 'os' as os %}",
    "{{ config }}{{ request.application.__globals__ }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_templates_cannot_reach_python(source):
    try:
        text = SandboxedTemplate(source).render({"messages": [{"role": "user", "content": "hi"}]})
    except (jinja2.TemplateError, TypeError):
        return
    assert not any(word in text for word in ("class", "module", "built-in", "<function", "environ", "uid="))


BOMBS = [
    "{{ 'a' * 1000000000 }}",
    "{{ 1000000000 * 'a' }}",
    "{{ [0] * 1000000000 }}",
    "{{ 10 ** 100000000 }}",
    "{{ 2 ** 64 ** 64 ** 64 }}",
    "{% set ns = namespace(n=3) %}{% for i in range(100000) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "{{ range(1000000000)|list }}",
    "{% for i in range(0, 1000000000, 2) %}{% endfor %}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a'.center(width=1000000000) }}",
    "{{ 'a'|center(1000000000) }}",
    "{{ 'a\nb'|indent(1000000000) }}",
    "{{ [1]|tojson(indent=1000000000) }}",
    "{{ strftime_now('%1000000000d') }}",
    "{% for a in range(9999) %}{% for b in range(9999) %}{{ 'x' * 999 }}{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_what_would_take_all_memory_is_refused(source):
    with pytest.raises((TemplateLimitError, jinja2.TemplateError, TypeError)):
        SandboxedTemplate(source).render({})


GROWTH = [
    "{% for i in L %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% for i in L %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% for i in L %}{% set ns.s = [ns.s, ns.s]|join %}{% endfor %}",
    "{% for i in L %}{% set ns.s = ns.s.replace('x', 'xx') %}{% endfor %}",
    "{% for i in L %}{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}{% endfor %}",
    "{{ '%1000000000s' % 'a' }}",  # a constant: evaluated when the template is compiled
    "{{ '%1000000000s'|format('a') }}",
    "{{ '{:1000000000}'.format('a') }}",
    "{{ ns.s.join(ns.s * 99999) * 9 }}",
]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the memory of a part of a process")
@pytest.mark.parametrize("source", GROWTH)
def test_what_grows_without_a_number_to_look_at_is_refused(source, monkeypatch):
    monkeypatch.setattr("localllm_llama_cpp.sandbox.MAX_BYTES", 32 * 1024 * 1024)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises((TemplateLimitError, jinja2.TemplateError)):
        SandboxedTemplate("{% set ns = namespace(s='xxxx') %}" + source).render({"L": list(range(64))})
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits
    assert len("x" * 100_000_000) == 100_000_000  # there is no limit outside


SILENT_LOOPS = [
    "{% for a in L %}{% for b in L %}{% for c in L %}{% for d in L %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
    "{% macro m(n) %}{% if n %}{% set x = m(n - 1) ~ m(n - 1) %}{% endif %}{% endmacro %}{{ m(200) }}",
    "{% for a in L recursive %}{{ loop(L) }}{% endfor %}",
    "{% set ns = namespace(x=0) %}{% for a in L %}{% for b in L %}{% set ns.x = ns.x + a %}{% endfor %}{% endfor %}",
    # written into a variable, so that no piece of it comes out; and with the guard's name taken
    "{% set localllm_tick = 'x'.strip %}{% set s %}{% for a in L %}{% for b in L %}{% endfor %}{% endfor %}{% endset%}",
]


@pytest.mark.parametrize("source", SILENT_LOOPS)
def test_loops_that_write_nothing_end_with_their_time(source):
    ticks = itertools.count()
    template = SandboxedTemplate(source, clock=lambda: next(ticks) * 0.01)  # a second every hundred looks
    with pytest.raises((TemplateLimitError, RecursionError)):
        template.render({"L": list(range(1000))})


def test_output_is_bounded():
    source = "{% for i in range(99) %}{{ x }}{% endfor %}"
    with pytest.raises(TemplateLimitError, match=f"more than {MAX_OUTPUT_CHARS} characters"):
        SandboxedTemplate(source).render({"x": "y" * 1_000_000})


def test_a_template_of_absurd_size_is_not_compiled():
    with pytest.raises(TemplateLimitError, match="2000000 characters"):
        SandboxedTemplate("x" * 2_000_000)


def test_a_template_may_change_its_copy_and_nothing_else():
    messages = [{"role": "user", "content": "hi", "parts": ["a"]}]
    template = SandboxedTemplate(
        "{{ messages.append(1) }}{{ messages[0].parts.append('b') }}{{ messages[0].pop('role') }}"
    )
    assert template.render({"messages": messages}) == "NoneNoneuser"
    assert messages == [{"role": "user", "content": "hi", "parts": ["a"]}]
    assert template.render({"messages": messages}) == "NoneNoneuser"


def test_only_plain_json_goes_in():
    with pytest.raises(TypeError, match="object"):
        SandboxedTemplate("{{ x }}").render({"x": object()})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ {'b': 1, 'a': '<é>'}|tojson }}", '{"b": 1, "a": "<é>"}'),
        ("{{ {'b': 1, 'a': 2}|tojson(sort_keys=true, separators=(',', ':')) }}", '{"a":2,"b":1}'),
        ("{{ [1]|tojson(indent=2) }}", "[\n  1\n]"),
        ("{{ [1, 2]|map('string')|tojson }}", '["1", "2"]'),  # a generator
        ("{{ ('{\"a\": [1]}'|from_json).a[0] }}", "1"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{% for i in [1, 2] %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}", "2"),
        ("{% generation %}a{{ 'b' }}{% endgeneration %}c", "abc"),
        ("  {% if true %}\n  x\n  {% endif %}\ny", "  x\ny"),  # trim_blocks and lstrip_blocks
        ("{% set ns = namespace(x=1) %}{% for i in [1] %}{% set ns.x = 5 %}{% endfor %}{{ ns.x }}", "5"),
        ("{% for a in [1, 2] %}{{ loop.index }}{% else %}none{% endfor %}", "12"),
        ("{% macro m(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call m(1) %}!{% endcall %}", "<1!>"),
        ("{{ 'a<b' }}", "a<b"),  # no HTML escapes
        ("{{ 3 * 4 }} {{ '-' * 3 }} {{ 2 ** 10 }} {{ 1.5 * 2 }}", "12 --- 1024 3.0"),
        ("{{ '%s!' % 'x' }} {{ '{}!'.format('x') }}", "x! x!"),
    ],
)
def test_what_templates_in_the_field_use_works(source, text):
    assert SandboxedTemplate(source).render({}) == text


def test_dates():
    year = SandboxedTemplate("{{ strftime_now('%Y') }}").render({})
    assert year.isdigit()
    assert len(year) == 4


def test_the_templates_own_refusal_is_told_apart():
    with pytest.raises(TemplateRaisedError, match="no such role"):
        SandboxedTemplate("{{ raise_exception('no such role') }}").render({})


def test_a_syntax_error_shows_when_compiling():
    with pytest.raises(jinja2.TemplateSyntaxError):
        SandboxedTemplate("{% if %}")


def test_rendering_twice_gives_the_same():
    template = SandboxedTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    variables = json.loads('{"messages": [{"content": "a"}, {"content": "b"}]}')
    assert template.render(variables) == template.render(variables) == "ab"
