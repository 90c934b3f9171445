"""Writes chat.json: conversations rendered by transformers' `apply_chat_template`, or the message with which a template refuses them.

    pip install -r requirements.txt
    python make_chat.py                      # rewrites chat.json beside this file

The templates are written here, with the means that published ones use. `strftime_now` tells the time NOW.
"""
import datetime, json, pathlib
import jinja2
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils
from make_tiny_qwen3 import MODEL

NOW = datetime.datetime(2026, 3, 9, 7, 5, 2)


class Clock(datetime.datetime):
    @classmethod
    def now(cls, *_):
        return NOW


TEMPLATES = {
    "marks": """{% for message in messages %}
<|{{ message.role }}|>
{{ message['content'] }}<|end|>
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{% endif %}
""",
    "alternating": """{%- if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}{% set turns = messages[1:] %}
{%- else %}{% set system = '' %}{% set turns = messages %}{% endif -%}
{{ bos_token }}{% for message in turns %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{ raise_exception('Turns must alternate user/assistant/user/...') }}
{%- endif -%}
{%- if message['role'] == 'user' %}{{ '[ASK] ' + (system + '\\n\\n' if loop.first and system else '') + message['content'].strip() + ' [/ASK]' }}
{%- else %}{{ ' ' + message['content'] | trim + eos_token }}{% endif -%}
{% endfor %}""",
    "dated": """{{- bos_token }}{% set day = strftime_now('%d %b %Y') if strftime_now is defined else 'never' %}
{%- if not tools is defined %}{% set tools = none %}{% endif %}
Today is {{ day }}, {{ strftime_now("%A %H:%M:%S, day %j of %Y-%m-%d") }}.
{% for message in messages | rejectattr('role', 'equalto', 'system') -%}
{{ '<' ~ message.role | upper ~ '>' }}{{ message.content | default('nothing', true) | trim }}{{ '</' ~ message.role ~ '>' }}
{% endfor -%}
{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(' / ') }}""",
    "tools": """{%- macro call(one) -%}<call>{{ {"name": one.name, "arguments": one.arguments} | tojson }}</call>{%- endmacro -%}
{%- set ns = namespace(last=-1, seen=[]) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.last < 0 and message.role == "user" and message.content is string %}{% set ns.last = index %}{% endif %}
{%- endfor %}
{%- if tools %}# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}{{ tools | tojson(indent=2) }}
{{ tools[0] | tojson(separators=(',', ':'), ensure_ascii=False) }}
{%- else %}# {{ 'No tools' if tools is none else 'An empty list' }}{% endif %}
{% for message in messages %}
{%- set content = message.content if message.content is string else '' %}
{%- if message.role == "assistant" and message.tool_calls %}
{{- content }}{% for tool_call in message.tool_calls %}{% set one = tool_call.function if tool_call.function is defined else tool_call %}{{ call(one) }}{% endfor %}
{%- elif message.role in ["tool", "function"] %}{% if not loop.previtem or loop.previtem.role != "tool" %}<results>{% endif %}[{{ content }}]{% if loop.last or loop.nextitem.role != "tool" %}</results>{% endif %}
{%- else %}({{ loop.index0 }}{{ '*' if loop.index0 == ns.last }}) {{ content }}{% endif %}
{% endfor %}""",
    "thinking": """{%- for message in messages %}
{%- set content = message.content %}
{%- if message.role == 'assistant' %}
{%- set reasoning = '' %}
{%- if message.reasoning_content is defined and message.reasoning_content is not none %}{% set reasoning = message.reasoning_content %}
{%- elif '</think>' in content %}
{%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- generation %}{{ '<think>' + reasoning + '</think>' if loop.last or not reasoning == '' else '' }}{{ content }}{% endgeneration %}
{%- else %}{{ content.replace('a', 'A') if content.startswith('a') or content.endswith('?') else content }}{% endif %}
{{- '\\n' -}}
{%- if loop.index >= 6 %}{% break %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant:' }}{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>{% endif %}{% endif %}""",
    "loops": """{% for message in messages if message.role != 'system' %}{{ loop.index }}/{{ loop.length }}:
{%- if message.content is mapping %}{% for key, value in message.content.items() %} {{ key }}={{ value }}{% if not loop.last %},{% endif %}{% endfor %}
{%- elif message.content is iterable and message.content is not string %}{% for part in message.content %}{% if part.type != 'text' %}{% continue %}{% endif %}{{ part.text }}{% endfor %}
{%- else %} {{ message['content'] | replace('\\n', ' ') | capitalize }}{% endif %} {{ loop.cycle('odd', 'even') }}
{# a comment #}
{% endfor %}
{{ messages[-1].get('name', 'nobody') }} {{ messages | map(attribute='role') | unique | list | length }} {{ missing }}{{ 7 // 2 }} {{ 2 ** 3 }} {{ "%s-%d" | format("x", 3) }} {{ true }} {{ none }} {{ 1.0 }} {{ [1, 'a'] }}""",
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "The weather of a place, today's <or> tomorrow's & later", "parameters": {
        "type": "object", "properties": {"place": {"type": "string", "description": "Zürich 'or so'"}, "days": {"type": "integer", "default": 1, "enum": []}}, "required": ["place"]}}},
    {"type": "function", "function": {"name": "add", "parameters": {}, "z": None, "a": True, "factor": 0.5}},
]
PLAIN = [{"role": "user", "content": "  Hello, who are you? \n"}]
TURNS = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "a cat\nor a dog?"},
         {"role": "assistant", "content": "<think>\nhm\n</think>\n\nA cat."}, {"role": "user", "content": "Why – grüße 你好 🦀"}]
CALLS = [{"role": "user", "content": "Weather in Bern and Zug?"},
         {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Bern", "days": 2}}},
                                                             {"name": "weather", "arguments": {"place": "Zug"}}]},
         {"role": "tool", "content": "sun"}, {"role": "tool", "content": "rain"}, {"role": "assistant", "content": "Sun and rain.", "name": "bot"}, {"role": "user", "content": "Thanks"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "image"}, {"type": "text", "text": "two"}]}, {"role": "assistant", "content": {"b": 1, "a": "x"}}]
WRONG = [{"role": "assistant", "content": "I begin."}]
CONVERSATIONS = [dict(messages=PLAIN), dict(messages=PLAIN, add_generation_prompt=True), dict(messages=TURNS, add_generation_prompt=True, enable_thinking=False),
                 dict(messages=CALLS, tools=TOOLS), dict(messages=CALLS, tools=TOOLS[1:], add_generation_prompt=True), dict(messages=TURNS, tools=[]), dict(messages=PARTS), dict(messages=WRONG)]
CASES = [("loops", 6)] + [(name, i) for name in TEMPLATES for i in (0, 1, 2, 7)] + [("tools", i) for i in (3, 4, 5)]


def main():
    chat_template_utils.datetime = Clock
    tokenizer = PreTrainedTokenizerFast.from_pretrained(MODEL)
    cases = []
    for name, index in CASES:
        conversation = CONVERSATIONS[index]
        tokenizer.chat_template = TEMPLATES[name]
        rest = {key: value for key, value in conversation.items() if key != "messages"}
        try:
            found = dict(text=tokenizer.apply_chat_template(conversation["messages"], tokenize=False, **rest))
        except jinja2.exceptions.TemplateError as error:
            found = dict(refused=str(error))
        cases.append(dict(template=name, conversation=conversation) | found)
    out = dict(now=NOW.isoformat(), templates=TEMPLATES, cases=cases)
    (pathlib.Path(__file__).parent / "chat.json").write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
    print(len(cases), "cases,", sum("refused" in case for case in cases), "refused")


if __name__ == "__main__":
    main()
