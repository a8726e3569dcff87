"""Renders chat templates for a list of conversations as transformers renders them, as what the tests compare with.

A row of expected.json is a template, a conversation, whether the assistant is asked for next, and either the text or how it fails: `raises`
is what the template said through raise_exception, `fails` any other error (whose words are Python's).

    pip install transformers jinja2
    python tools/chat_templates.py [DIR]        (tests/data/chat_templates; writes DIR/expected.json)
"""

import argparse
import datetime
import json
from pathlib import Path

import jinja2
import transformers
from transformers.utils import chat_template_utils

HERE = Path(__file__).resolve().parent.parent / "tests/data/chat_templates"


class Moment(datetime.datetime):
    """The moment at which templates are rendered: src/text/template.rs says why it never passes."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def system(content):
    return {"role": "system", "content": content}


CONVERSATIONS = {
    "a question": [user("What is 2+3?")],
    "a system prompt": [system("You are terse."), user("Hello")],
    "two questions": [user("Hello"), assistant("Hello! How are you?"), user("Fine. 2+2?")],
    "an answer last": [user("Hello"), assistant("Hi")],
    "a debate": [system("Agree."), user("1?"), assistant("One."), user("2?"), assistant("Two."), user("3?"), assistant("Three.")],
    "empty": [user("")],
    "all empty": [system(""), user(""), assistant("")],
    "space around": [system(" \n s \n"), user("  \n\n a b \t\n"), assistant("\n\n c \n \n"), user(" d")],
    "other spaces": [user("\u00a0a\u2028\u3000\x0b\x0c\x1c\x85"), assistant("\ufeff\u200bb\u00a0\r\n")],
    "unicode": [system("système"), user("日本語 😀 e\u0301 \u202eabc"), assistant("Ünïcödé ß ŉ ǆ İ — ﬁ 𝔘")],
    "special tokens in text": [
        system("<|system|>\n<<SYS>>"),
        user("<s>[INST] <|im_start|>system\nx<|im_end|><|eot_id|><|begin_of_text|></s>"),
        assistant("<|end|><|endoftext|><|start_header_id|>[/INST]"),
    ],
    "thoughts": [user("why?"), assistant("<think>\nsince\n</think>\n\nthus"), user("sure?"), assistant("<think>hm</think>yes")],
    "jinja in text": [user("{{ 7*7 }} {% raw %} {# no #}"), assistant("'{\"a\": \"b\\n\"}' \\ \"")],
    "a tool's answer": [user("<tool_response>\n1\n</tool_response>"), assistant("1")],
    "html": [user("<a href='x'>&amp;</a>")],
    "the user twice": [user("a"), user("b")],
    "the assistant twice": [user("a"), assistant("b"), assistant("c")],
    "the assistant first": [assistant("a"), user("b")],
    "system later": [user("a"), system("b"), user("c"), assistant("d")],
    "system alone": [system("a")],
    "another role": [user("a"), {"role": "critic", "content": "b"}],
    "long": [user("word " * 60 + "\n" * 3 + "word")],
}

LLAMA_2 = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
LLAMA_3 = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
PHI = {"bos_token": "<s>", "eos_token": "<|endoftext|>", "unk_token": "<unk>", "pad_token": "<|endoftext|>"}
CHATML = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
SPECIAL_TOKENS = {"llama-3": LLAMA_3, "phi": PHI, "qwen": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
                  "smollm": CHATML, "chatml": CHATML, "constructs": {"bos_token": "<s>", "eos_token": "</s>"}}


def special_tokens(name):
    return next((tokens for prefix, tokens in SPECIAL_TOKENS.items() if name.startswith(prefix)), LLAMA_2)


def row(name, source, conversation, add_generation_prompt):
    found = {"template": name, "conversation": conversation, "add_generation_prompt": add_generation_prompt}
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            [CONVERSATIONS[conversation]], chat_template=source, add_generation_prompt=add_generation_prompt, **special_tokens(name))
        found["text"] = texts[0]
    except jinja2.exceptions.UndefinedError as e:
        found["fails"] = str(e)
    except jinja2.exceptions.TemplateError as e:
        found["raises" if type(e) is jinja2.exceptions.TemplateError else "fails"] = str(e)
    except (TypeError, ValueError, AttributeError) as e:
        found["fails"] = str(e)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dir", nargs="?", type=Path, default=HERE, help="folder of *.jinja files")
    folder = parser.parse_args().dir
    chat_template_utils.datetime = Moment

    def lines(values):
        return ",\n".join(json.dumps(value, ensure_ascii=False) for value in values)

    templates = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
    rows = [row(name, source, conversation, ask)
            for name, source in templates.items() for conversation in CONVERSATIONS for ask in (False, True)]
    head = {"transformers": transformers.__version__, "jinja2": jinja2.__version__,
            "special_tokens": {name: special_tokens(name) for name in templates}, "conversations": CONVERSATIONS}
    text = json.dumps(head, ensure_ascii=False, indent=1)
    (folder / "expected.json").write_text(text[:-2] + ',\n "rows": [\n' + lines(rows) + "\n]}\n", encoding="utf-8")
    kinds = {kind: sum(kind in r for r in rows) for kind in ("text", "raises", "fails")}
    print(f"{folder / 'expected.json'}: {len(rows)} rows, {kinds}")


if __name__ == "__main__":
    main()
