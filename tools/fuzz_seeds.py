#!/usr/bin/env python3
"""Writes the seeds of the fuzz corpora: files of the tests' fixtures, and inputs as nasty as a person thinks of.

    tools/fuzz_seeds.py        writes fuzz/corpus/TARGET/seed-NAME, replacing earlier seeds and nothing else

What the fuzzer finds beyond them is kept beside them (fuzz/README.md).
"""

import json
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"
FIXTURES = ROOT / "tests" / "fixtures"


def safetensors(header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def tensor(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def seeds_safetensors():
    good = {"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 2], 0, 16), "b": tensor("BF16", [3], 16, 22)}
    yield "good", safetensors(good, bytes(range(22)))
    yield "f16", safetensors({"a": tensor("F16", [1, 2], 0, 4)}, b"\0\x7c\0\xfe")
    yield "empty-tensor", safetensors({"a": tensor("F32", [0, 4], 0, 0), "b": tensor("I8", [2], 0, 2)}, b"ab")
    yield "scalar", safetensors({"a": tensor("F64", [], 0, 8)}, b"\0" * 8)
    yield "f4", safetensors({"a": tensor("F4", [2], 0, 1), "b": tensor("F8_E4M3", [3], 1, 4)}, b"abcd")
    yield "none", safetensors({})
    yield "empty", b""
    yield "short", b"\x10\0\0"
    yield "huge-length", safetensors({}, length=2**64 - 1)
    yield "longest-header", safetensors({}, length=100_000_000)
    yield "overflow", safetensors({"a": tensor("F32", [2**63, 2, 2**33], 0, 4)}, b"\0" * 4)
    yield "wraps-to-zero", safetensors({"a": tensor("F32", [2**32, 2**32], 0, 0)})
    yield "backwards", safetensors({"a": tensor("F32", [1], 4, 0)}, b"\0" * 4)
    yield "beyond", safetensors({"a": tensor("F32", [1], 2**63, 2**63 + 4)}, b"\0" * 4)
    yield "overlap", safetensors({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, b"\0" * 6)
    yield "gap", safetensors({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 2, 3)}, b"\0" * 3)
    yield "negative", safetensors(b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', b"\0" * 4)
    yield "twice", safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x")
    yield "control-characters", safetensors({"\x1b[2J\n\0": tensor("F99", [1], 0, 1)}, b"x")
    yield "metadata", safetensors({"__metadata__": {"a": 1}})
    yield "nested", safetensors(b'{"a":' + b"[" * 200)
    yield "nan", safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,1e400]}}', b"\0" * 4)
    yield "not-utf8", safetensors(b'{"\xff\xfe":1}')
    adapter = next(FIXTURES.glob("llama/adapters/*/adapter_model.safetensors"))
    whole = adapter.read_bytes()
    yield "adapter-header", whole[: 8 + struct.unpack("<Q", whole[:8])[0]][:3000]


PLAIN = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "vocab_size": 64,
    "rms_norm_eps": 1e-5,
}


def seeds_config_json():
    for path in sorted(FIXTURES.glob("*/config.json")):
        yield "fixture-" + path.parent.name, path.read_bytes()
    yield "embedded", (ROOT / "assets/model/config.json").read_bytes()

    def changed(**fields):
        return json.dumps({**PLAIN, **fields}).encode()

    most = 1 << 24
    yield "layers", changed(num_hidden_layers=most)
    yield "all-largest", changed(hidden_size=most, intermediate_size=most, num_attention_heads=most, num_hidden_layers=4096, head_dim=128, vocab_size=most)
    yield "wide", changed(hidden_size=most, intermediate_size=most, num_hidden_layers=4096, head_dim=128)
    yield "many-heads", changed(hidden_size=1, num_attention_heads=most, head_dim=128, max_position_embeddings=1 << 20, num_hidden_layers=4096)
    yield "zero", changed(num_attention_heads=0)
    yield "negative", changed(hidden_size=-64)
    yield "fraction", changed(hidden_size=64.5)
    yield "infinite", changed().replace(b"64", b"1e400", 1)
    yield "nan", changed().replace(b"64", b"NaN", 1)
    yield "head-size-zero", changed(head_dim=0)
    yield "windows", changed(architectures=["Qwen2ForCausalLM"], use_sliding_window=True, max_window_layers=2**64 - 1, num_key_value_heads=4)
    yield "layer-types", changed(architectures=["Qwen3ForCausalLM"], num_key_value_heads=4, use_sliding_window=True, layer_types=["sliding_attention", "full_attention"])
    yield "generation", changed() + b'\0{"eos_token_id": [1, 4294967295], "bos_token_id": 0}'
    ropes = {
        "linear": {"rope_type": "linear", "factor": 1e-30},
        "dynamic": {"rope_type": "dynamic", "factor": 1e30},
        "dynamic-two": {"rope_type": "dynamic", "factor": 2},
        "yarn": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 32},
        "yarn-turns": {"rope_type": "yarn", "beta_fast": 1e38, "beta_slow": 1e-38, "mscale": 1e38, "mscale_all_dim": 1e-38, "truncate": False},
        "llama3": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 1, "original_max_position_embeddings": 1},
        "theta-one": {"rope_type": "yarn", "factor": 2, "rope_theta": 1},
    }
    for name, rope in ropes.items():
        yield "rope-" + name, changed(rope_parameters=rope)
    short = [1.0] * 8
    longrope = {"type": "longrope", "short_factor": short, "long_factor": [1e-38] * 8}
    yield "rope-long", changed(architectures=["Phi3ForCausalLM"], rope_scaling=longrope, original_max_position_embeddings=64)
    yield "rope-long-one", changed(architectures=["Phi3ForCausalLM"], rope_scaling=longrope, original_max_position_embeddings=1)
    yield "rope-part", changed(architectures=["Phi3ForCausalLM"], rope_scaling=longrope, partial_rotary_factor=0.5)
    yield "nested", b'{"a":' * 200
    yield "list", b"[]"
    yield "empty", b""
    yield "twice", b'{"hidden_size": 1, "hidden_size": 2, "architectures": ["LlamaForCausalLM"]}'
    yield "control-characters", json.dumps({"model_type": "\x1b[2J\n\0"}).encode()


def seeds_shard_index():
    def index(**shards):
        return json.dumps({"metadata": {"total_size": 1}, "weight_map": shards}).encode()

    yield "good", index(x="a.safetensors")
    for name, path in {
        "above": "../secret.safetensors",
        "absolute": "/etc/passwd",
        "below": "b/../../secret.safetensors",
        "here": "./a.safetensors",
        "folder": ".",
        "parent": "..",
        "slash": "a.safetensors/",
        "double": "//a",
        "backslash": "..\\secret.safetensors",
        "drive": "C:\\a",
        "nul": "a\0b",
        "empty-name": "",
        "newline": "a\nb\x1b[2J",
        "long": "a" * 300,
        "config": "config.json",
        "index": "model.safetensors.index.json",
        "unicode": "\u202eabc",
    }.items():
        yield name, index(x=path)
    yield "several", index(x="a.safetensors", y="b.safetensors", z="a.safetensors")
    yield "none", index()
    yield "no-map", b"{}"
    yield "list", b'{"weight_map": [["a", "b"]]}'
    yield "number", b'{"weight_map": {"a": 1}}'
    yield "twice", b'{"weight_map": {"a": "a.safetensors", "a": "../secret.safetensors"}}'
    yield "nested", b'{"weight_map": ' + b'{"a":' * 200
    yield "not-utf8", b'{"weight_map": {"a": "\xff"}}'
    yield "surrogate", b'{"weight_map": {"a": "\\ud800"}}'
    yield "empty", b""


def seeds_adapter_config():
    plain = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}

    def changed(**fields):
        return json.dumps({**plain, **fields}).encode()

    for i, path in enumerate(sorted(FIXTURES.glob("*/adapters/*/adapter_config.json"))):
        if i % 4 == 0:
            yield f"fixture-{i}", path.read_bytes()
    yield "good", changed()
    yield "all-linear", changed(target_modules="all-linear")
    yield "pattern", changed(target_modules=r".*\.(q|k)_proj")
    yield "backtracking", changed(target_modules=r"(?=(a*)*b)(.*.*.*.*.*)*x\1")
    yield "look-around", changed(target_modules=r"(?<!x).*(?=_proj).*(?<=j)")
    yield "repetition", changed(target_modules=r"(\w{100}){100}")
    yield "many-parts", changed(target_modules="(?=\\w{99})" * 30)
    yield "deep-pattern", changed(target_modules="(" * 200 + "a" + ")" * 200)
    yield "broken-pattern", changed(target_modules="a)(?:b")
    yield "back-reference", changed(rank_pattern={r"(.)\3": 2})
    yield "rank-pattern", changed(rank_pattern={"^model.layers.0.self_attn.q_proj": 8, "layers.[01].self_attn.v_proj": 2}, alpha_pattern={"q_proj": 0.5})
    yield "unicode-classes", changed(rank_pattern={f"\\w{{{i}}}": 1 for i in range(20, 40)})
    yield "layers", changed(layers_to_transform=[0, -1, 2**63 - 1], layers_pattern=["layers", "h"])
    yield "layer", changed(layers_to_transform=1)
    yield "layer-patterns", changed(layers_to_transform=[1], layers_pattern=["(" + "a*" * 20 + ")*"] * 9)
    yield "excluded", changed(target_modules="all-linear", exclude_modules=["down_proj"])
    yield "excluded-pattern", changed(target_modules="all-linear", exclude_modules=".*mlp.*")
    for name, rank in {"zero": 0, "negative": -1, "huge": 2**63, "fraction": 1.5, "text": "8"}.items():
        yield "rank-" + name, changed(r=rank)
    yield "rank-infinite", changed(r=4).replace(b'"r": 4', b'"r": 1e400')
    yield "alpha-largest", changed(lora_alpha=1.7e308, use_rslora=True)
    yield "alpha-nan", changed().replace(b'"lora_alpha": 8', b'"lora_alpha": NaN')
    yield "dropout-one", changed(lora_dropout=0.99999999999)
    yield "rank-pattern-large", changed(rank_pattern={"q_proj": 1e300, "": 1})
    yield "dora", changed(use_dora=True)
    yield "base", changed(base_model_name_or_path="../../../etc/passwd\0\x1b[2J", revision="..")
    yield "nested", b'{"peft_type": ' + b"[" * 200
    yield "empty", b""


def seeds_tokenizer_json():
    plain = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 0, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {"</s>": 0, "a": 1, "b": 2, "2": 3, "+": 4, "=": 5, "4": 6, "aa": 7, "\u0120": 8},
            "merges": [["a", "a"]],
        },
    }

    def changed(**fields):
        return json.dumps({**plain, **fields}, separators=(",", ":")).encode()

    def model(**fields):
        return changed(model={**plain["model"], **fields})

    yield "good", changed()
    yield "old-merges", model(merges=["a a"])
    yield "unknown-merge", model(merges=[["x", "y"]])
    yield "merge-to-nothing", model(merges=[["a", "b"]])
    yield "id-largest", model(vocab={"a": 2**32 - 1})
    yield "id-too-large", model(vocab={"a": 2**32})
    yield "id-negative", model(vocab={"a": -1})
    yield "same-ids", model(vocab={"a": 1, "b": 1, "</s>": 0})
    yield "dropout", model(dropout=1.0)
    yield "dropout-infinite", model(dropout=-1e30)
    yield "unknown-token", model(unk_token="[UNK]", fuse_unk=True)
    yield "byte-fallback", model(byte_fallback=True, vocab={f"<0x{i:02X}>": i for i in range(256)}, merges=[])
    yield "prefix-suffix", model(continuing_subword_prefix="##", end_of_word_suffix="</w>")
    for kind in ["WordLevel", "WordPiece"]:
        fields = {"type": kind, "vocab": {"[UNK]": 0, "a": 1, "##a": 2}, "unk_token": "[UNK]", "max_input_chars_per_word": 100, "continuing_subword_prefix": "##"}
        yield kind.lower(), changed(model=fields)
        yield kind.lower() + "-without-unknown", changed(model={**fields, "unk_token": "x"})
    yield "wordpiece-short", changed(model={"type": "WordPiece", "vocab": {}, "unk_token": "", "max_input_chars_per_word": 0, "continuing_subword_prefix": ""})
    yield "unigram", changed(model={"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["2", -1e308]], "byte_fallback": False})
    yield "unigram-unknown", changed(model={"type": "Unigram", "unk_id": 99, "vocab": [["a", 0.0]], "byte_fallback": True})
    yield "unigram-none", changed(model={"type": "Unigram", "unk_id": None, "vocab": [], "byte_fallback": False})
    yield "unigram-nan", changed(model={"type": "Unigram", "unk_id": 0, "vocab": [["", 0.0], ["a", 1e308], ["aa", 1e308]], "byte_fallback": False})
    yield "no-type", changed(model={"vocab": {"a": 0}, "merges": []})

    pre = {
        "whitespace": {"type": "Whitespace"},
        "metaspace": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "metaspace-empty": {"type": "Metaspace", "replacement": "", "prepend_scheme": "first"},
        "digits": {"type": "Digits", "individual_digits": True},
        "split": {"type": "Split", "pattern": {"Regex": "(a+)+$|\\s+(?!\\S)"}, "behavior": "Isolated", "invert": False},
        "split-empty": {"type": "Split", "pattern": {"String": ""}, "behavior": "MergedWithPrevious", "invert": True},
        "split-nothing": {"type": "Split", "pattern": {"Regex": "x*"}, "behavior": "Removed", "invert": False},
        "split-broken": {"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Removed", "invert": False},
        "split-large": {"type": "Split", "pattern": {"Regex": "(\\w{1000}){1000}"}, "behavior": "Removed", "invert": False},
        "split-parts": {"type": "Split", "pattern": {"Regex": "(?=\\w{500})" * 50}, "behavior": "Removed", "invert": False},
        "fixed-length": {"type": "FixedLength", "length": 0},
        "delimiter": {"type": "CharDelimiterSplit", "delimiter": "="},
        "punctuation": {"type": "Punctuation", "behavior": "Contiguous"},
        "scripts": {"type": "UnicodeScripts"},
        "bert": {"type": "BertPreTokenizer"},
        "unknown": {"type": "Other"},
    }
    for name, value in pre.items():
        yield "pre-" + name, changed(pre_tokenizer=value)
    normalizers = {
        "lower": {"type": "Lowercase"},
        "nfkc": {"type": "NFKC"},
        "bert": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "prepend": {"type": "Prepend", "prepend": "\u2581"},
        "replace": {"type": "Replace", "pattern": {"Regex": ""}, "content": "aaaaaaaa"},
        "replace-string": {"type": "Replace", "pattern": {"String": ""}, "content": "b"},
        "strip": {"type": "Strip", "strip_left": True, "strip_right": True},
        "precompiled": {"type": "Precompiled", "precompiled_charsmap": "/////wAAAAAA"},
        "precompiled-empty": {"type": "Precompiled", "precompiled_charsmap": ""},
        "precompiled-trie": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////9hYWE="},
        "byte-level": {"type": "ByteLevel"},
    }
    for name, value in normalizers.items():
        yield "normalizer-" + name, changed(normalizer=value)
    growing = {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 24}
    yield "normalizer-growing", changed(normalizer=growing)
    decoders = {
        "strip": {"type": "Strip", "content": "a", "start": 2**40, "stop": 2**40},
        "wordpiece": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "bpe": {"type": "BPEDecoder", "suffix": ""},
        "ctc": {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True},
        "fuse": {"type": "Fuse"},
        "byte-fallback": {"type": "ByteFallback"},
        "replace": {"type": "Replace", "pattern": {"String": ""}, "content": "aaaa"},
    }
    for name, value in decoders.items():
        yield "decoder-" + name, changed(decoder=value)
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "</s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [0], "tokens": ["</s>"]}},
    }
    yield "post-template", changed(post_processor=template)
    yield "post-template-id", changed(post_processor={**template, "special_tokens": {"</s>": {"id": "</s>", "ids": [2**32 - 1], "tokens": ["</s>"]}}})
    yield "post-template-missing", changed(post_processor={**template, "special_tokens": {}})
    yield "post-template-pair", changed(post_processor={**template, "single": [{"Sequence": {"id": "B", "type_id": 9}}]})
    yield "post-bert", changed(post_processor={"type": "BertProcessing", "sep": ["</s>", 2**32 - 1], "cls": ["x", 3]})
    yield "post-roberta", changed(post_processor={"type": "RobertaProcessing", "sep": ["</s>", 0], "cls": ["x", 3], "trim_offsets": True, "add_prefix_space": True})
    for kind, field in [("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"), ("decoder", "decoders"), ("post_processor", "processors")]:
        for depth in [3, 12, 28, 60]:
            value = {"type": "Nothing"}
            for _ in range(depth):
                value = {"type": "Sequence", field: [value]}
            yield f"nested-{kind}-{depth}", changed(**{kind: value})
            value = {"x": 1}
            for _ in range(depth):
                value = {field: [value]}
            yield f"nested-untyped-{kind}-{depth}", changed(**{kind: value})
    yield "truncation", changed(truncation={"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 10})
    yield "padding", changed(padding={"strategy": {"Fixed": 2**40}, "direction": "Left", "pad_to_multiple_of": 0, "pad_id": 2**31, "pad_type_id": 0, "pad_token": ""})
    added = plain["added_tokens"][0]
    yield "added-empty", changed(added_tokens=[{**added, "content": ""}])
    yield "added-far", changed(added_tokens=[{**added, "id": 2**32 - 1, "content": "x"}])
    yield "added-many", changed(added_tokens=[{**added, "id": i, "content": "a" * i} for i in range(1, 40)])
    yield "added-single-word", changed(added_tokens=[{**added, "single_word": True, "lstrip": True, "rstrip": True, "content": " "}])
    yield "empty", b""
    yield "object", b"{}"
    yield "nested", b'{"version":"1.0","model":' + b'{"a":' * 200


def seeds_chat_template():
    folder = ROOT / "tests/data/chat_templates"
    for path in sorted(folder.glob("*.jinja")):
        source = path.read_bytes()
        if len(source) < 5000:
            yield path.stem, source
    nasty = {
        "nested-loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "range": "{{ range(10**18) | list | length }}",
        "range-list": "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = ns.x + [range(100000) | list] %}{% endfor %}",
        "doubling": "{% set ns = namespace(x='ab') %}{% for i in range(64) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "multiplied": "{{ 'a' * 1000000000000 }}",
        "multiplied-list": "{{ ([1] * 10000000) | length }}",
        "constants": "{{ 'aaaaaaaa' * 99999 * 99999 }}",
        "power": "{{ 10 ** 10 ** 10 }}",
        "power-float": "{{ 2.5 ** 10000 }}",
        "recursion": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "recursion-twice": "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "recursive-loop": "{% for x in [[[1]]] recursive %}{{ loop([x]) }}{% endfor %}",
        "itself": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}{{ ns == ns }}",
        "nests": "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
        "join": "{% set ns = namespace(x='a') %}{% for i in range(30) %}{% set ns.x = [ns.x, ns.x] | join(ns.x) %}{% endfor %}",
        "replace": "{{ ('a' * 10000) | replace('a', 'a' * 10000) }}",
        "replace-empty": "{{ ('a' * 10000) | replace('', 'b' * 10000) }}",
        "replace-method": "{{ ('a' * 5000).replace('a', 'b' * 5000).replace('b', 'c' * 5000) }}",
        "format": "{{ '%1000000000d' % 1 }}{{ '{:>9999999}'.format(1) }}",
        "format-many": "{{ ('%9999d' * 10000) % range(10000) }}",
        "format-braces": "{{ ('{0:>9999}' * 9999).format(1) }}",
        "indent": "{{ ('a\\n' * 10000) | indent(1000, true) }}",
        "tojson": "{{ messages | tojson(indent=1000) }}{{ {'a': 1} | tojson(separators=['a' * 100000, 'b' * 100000]) }}",
        "slice": "{{ 'abc'[::-1] }}{{ 'abc'[-10**30:10**30:-10**30] }}{{ [1,2,3][5:-5:2] }}",
        "slice-zero": "{{ 'abc'[::0] }}",
        "integers": "{{ 9223372036854775807 + 1 }}{{ -9223372036854775808 // -1 }}{{ 170141183460469231731687303715884105727 * 2 }}",
        "remainder": "{{ (-170141183460469231731687303715884105727 - 1) % -1 }}{{ 1 % 0 }}{{ 1.5 % 0.0 }}",
        "division": "{{ 1 / 0 }}{{ 1 // 0 }}{{ 0.0 / 0.0 }}",
        "float": "{{ 1e308 * 10 }}{{ (1e308 * 10) | int }}{{ 1e400 }}{{ 'nan' | float | round(99) }}",
        "round": "{{ 1.5 | round(2147483647) }}{{ 1.5 | round(-2147483648) }}",
        "batch": "{{ range(100000) | batch(0) | list }}{{ range(10) | batch(99999999, 'x') | list }}",
        "slice-filter": "{{ range(10) | slice(0) | list }}{{ range(10) | slice(100000) | list | length }}",
        "sort": "{{ range(100000) | sort(reverse=true) | list | length }}",
        "sum": "{{ [9223372036854775807, 9223372036854775807] | sum }}",
        "groupby": "{{ messages | groupby('role') | list }}",
        "title": "{{ '\u0149\ufb01\u01c5' .title() }}{{ 'a\ufb01' | capitalize }}",
        "find": "{{ 'a\u00e9b'.find('b', -9223372036854775808, 9223372036854775807) }}",
        "count": "{{ ('a' * 100000).count('') }}",
        "split": "{{ ('a' * 100000).split('a') | length }}{{ 'a'.split('') }}",
        "splitlines": "{{ ('\\n' * 100000).splitlines() | length }}",
        "strip": "{{ (' ' * 1000000).strip() }}{{ 'a'.strip('') }}",
        "join-method": "{{ ('a' * 10000).join(range(10000) | map('string') | list) }}",
        "raise": "{{ raise_exception('\u001b[2J\\n') }}",
        "clock": "{{ strftime_now('%Y-%m-%d %-d%' * 100) }}",
        "include": "{% include '/etc/passwd' %}",
        "import": "{% import '../x' as y %}{% from 'z' import a %}",
        "extends": "{% extends 'x' %}{% block a %}{% endblock %}",
        "attributes": "{{ ''.__class__.__mro__ }}{{ messages.__init__ }}{{ self }}",
        "autoescape": "{% autoescape true %}{{ '<' }}{% endautoescape %}",
        "call-block": "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{% call m() %}x{% endcall %}{% endcall %}",
        "filter-block": "{% filter upper %}{% for i in range(99999) %}a{% endfor %}{% endfilter %}",
        "set-block": "{% set x %}{% for i in range(99999) %}abc{% endfor %}{% endset %}{{ x * 999 }}",
        "many-elif": "{% if 0 %}" + "{% elif 0 %}" * 300 + "{% endif %}",
        "deep-if": "{% if 1 %}" * 200,
        "deep-brackets": "{{ " + "(" * 300 + "1" + ")" * 300 + " }}",
        "deep-lists": "{{ " + "[" * 90 + "]" * 90 + " }}",
        "deep-not": "{{ " + "not " * 390 + "1 }}",
        "long-sum": "{{ " + "1 + " * 190 + "1 }}",
        "long-chain": "{{ x" + ".a" * 190 + " }}",
        "ternaries": "{{ " + "1 if 0 else " * 90 + "1 }}",
        "filters": "{{ 'a'" + " | upper" * 190 + " }}",
        "comparisons": "{{ 1 < 2 < 3 < 4 == 4 in [4] }}",
        "open": "{{",
        "open-block": "{% for x in messages %}",
        "open-comment": "{# {# ",
        "open-text": "{{ 'abc",
        "raw": "{% raw %}{{ }}{% endraw %}",
        "generation": "{%- generation -%}x{%- endgeneration -%}{% endgeneration %}",
        "whitespace": "{%- if 1 -%}\r\n\r {%+ endif +%}\t",
        "loop-controls": "{% for m in messages %}{% continue %}{% break %}{% else %}x{% endfor %}",
        "unpack": "{% for a, b in [(1, 2), (3,)] %}{{ a }}{% endfor %}{% set a, b = 1 %}",
        "namespace-names": "{{ namespace(**{'a': 1}) }}{{ dict(a=1, **{'a': 2}) }}",
        "keyword-arguments": "{% macro f(a, b=1) %}{{ a }}{% endmacro %}{{ f(b=2, a=1, c=3) }}",
        "content": "{{ messages[2].content }}{{ messages[2].content.split()[0] }}\0 a \u00e9 {{ 1 }}\0second",
    }
    for name, source in nasty.items():
        yield name, source.encode()
    yield "not-utf8", b"{{ '\xff\xfe' }}"
    yield "empty", b""


def seeds_jsonl_records():
    lines = {
        "gsm8k": {"question": "What is 2+2?", "answer": "2+2 = <<2+2=4>>4\n#### 4"},
        "math": {"problem": "Find $x$.", "solution": r"So $x = \boxed{\frac{1}{2}}$.", "level": "Level 3", "type": "Algebra"},
        "mmlu": {"question": "Which is red?", "choices": ["grass", "blood"], "answer": 1, "subject": "colours"},
        "mmlu-letter": {"question": "Which is red?", "choices": ["grass", "blood"], "answer": "B"},
        "mmlu-beyond": {"question": "Which?", "choices": ["a", "b"], "answer": 2**64 - 1},
        "mmlu-many": {"question": "Which?", "choices": ["a"] * 27, "answer": 1},
        "mmlu-one": {"question": "Which?", "choices": ["a"], "answer": 0},
        "text": {"text": "Once upon a time", "adapter": "a", "id": 7},
        "tokens": {"tokens": [1, 2, 3], "weights": [0, 1, 0.5]},
        "tokens-large": {"tokens": [2**32 - 1, 0]},
        "tokens-too-large": {"tokens": [2**32]},
        "messages": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho", "weight": 0}]},
        "weight": {"messages": [{"role": "assistant", "content": "", "weight": 1e300}]},
        "prompt": {"prompt": "2+2=", "completion": "4"},
        "misspelt": {"text": "a", "adaptr": "b"},
        "number": {"question": 12, "answer": 1e308},
        "boxed": {"problem": "p", "solution": r"\boxed{\boxed{\boxed{3}}"},
        "boxed-bare": {"problem": "p", "solution": r"\boxed 5"},
        "empty-fields": {"question": " ", "answer": ""},
        "control-characters": {"question": "\x1b[2J\0", "answer": "\u202e"},
        "long-field": {"a" * 500: 1},
    }
    for name, line in lines.items():
        yield name, json.dumps(line).encode() + b"\n"
    yield "several", b'{"question": "a", "answer": "1"}\n\n{"question": "b", "answer": "2"}\r\n'
    yield "same", b'{"question": "a", "answer": "1"}\n{"question": "a", "answer": "1.0"}\n'
    yield "contradiction", b'{"question": "a", "answer": "1"}\n{"question": "a", "answer": "2"}\n'
    yield "array", b'[{"question": "a", "answer": "1"}, {"question": "b", "answer": "2"}]'
    yield "csv", b'Which is red?,grass,"blood, ""fresh""",sky,snow,B\n"two\nlines",1,2,3,4,A\n'
    yield "csv-open", b'"never closed,1,2\n'
    yield "csv-after", b'"a"b,c\n'
    yield "csv-columns", b",,,,,,,\n"
    yield "nan", b'{"tokens": [1], "weights": [NaN]}\n'
    yield "infinite", b'{"tokens": [1], "weights": [1e400]}\n'
    yield "twice", b'{"text": "a", "text": "b"}\n'
    yield "nested", b'{"question": ' + b"[" * 200
    yield "not-utf8", b'{"text": "\xff"}\n'
    yield "surrogate", b'{"text": "\\ud800"}\n'
    yield "nul", b"\0\0\0\n"
    yield "empty", b""
    yield "white-space", b" \n\t\n\r\n"


def seeds_toml_config():
    for path in sorted((ROOT / "assets/configs").glob("*.toml")) + sorted((ROOT / "examples").glob("*.toml")):
        source = path.read_bytes()
        if len(source) < 5000:
            yield path.stem, source
    arm = '[[arm]]\nname = "{}"\nrecipe = "multiagent"\n'
    nasty = {
        "empty": "",
        "preset": '[run]\npreset = "paper"\n',
        "two-arms": arm.format("a") + arm.format("b"),
        "same-arms": arm.format("a") * 2,
        "arm-above": arm.format("../../x"),
        "arm-hidden": arm.format(".x"),
        "arm-set": arm.format("a") + 'set = {"debate.rounds" = 3}\n',
        "arm-set-table": arm.format("a") + "[arm.set]\ndebate.rounds = 3\n",
        "arm-set-deep": arm.format("a") + 'set = {"' + "a." * 500 + 'b" = 1}\n',
        "arm-set-arm": arm.format("a") + 'set = {"arm" = 1, "grid.x" = 2}\n',
        "arm-preset": arm.format("a") + 'set = {"run.preset" = "official-code"}\n',
        "grid": '[grid]\n"debate.rounds" = [2, 3]\n"sampling.temperature" = [0.5, 1.0]\n[task]\ntest_questions = 0\n',
        "grid-explodes": "[grid]\n" + "".join(f"{key} = [{', '.join(map(str, range(1, 33)))}]\n" for key in ["debate.rounds", "debate.agents", "training.num_epochs", "training.batch_size", "run.iterations", "sampling.max_tokens", "sampling.summary_max_tokens", "task.terms", "task.max_operand", "adapter.rank"]),
        "grid-empty": '[grid]\n"debate.rounds" = []\n',
        "grid-nested": '[grid]\ndebate.rounds.x.y = [1]\n"" = [1]\n"." = [1]\n',
        "grid-long": '[grid]\n"task.name" = ["' + "a" * 300 + '", "../x"]\n',
        "critic": "[training.critic]\nlearning_rate = 0.5\nnum_epochs = 2\n",
        "adapter-of": "[adapter.of.critic]\nrank = 4\n[adapter.of.critic-1]\nrank = 8\n",
        "adapter-of-above": '[adapter.of."../x"]\nrank = 4\n',
        "transfer": '[transfer]\nname = "arithmetic"\nterms = 2\n',
        "misspelt": "[debate]\nround = 2\n",
        "misspelt-long": "[debate]\n" + "a" * 2000 + " = 2\n",
        "seeds": "[run]\nseeds = [0, 18446744073709551615]\n",
        "seeds-negative": "[run]\nseeds = [-1]\n",
        "seeds-same": "[run]\nseeds = [1, 1]\n",
        "large": "[debate]\nrounds = 4294967295\n[task]\ntrain_questions = 4294967295\n",
        "too-large": "[debate]\nrounds = 99999999999999999999\n",
        "nan": "[sampling]\ntemperature = nan\n",
        "infinite": "[training]\nlearning_rate = inf\n",
        "exponent": "[training]\nlearning_rate = 1e-400\nweight_decay = 1e400\n",
        "float-edge": "[training]\nlearning_rate = 3.5e38\nadam_beta1 = 0.99999999999\n",
        "date": "[run]\niterations = 1979-05-27T07:32:00Z\n",
        "hexadecimal": "[debate]\nrounds = 0x10\nagents = 0b11\n",
        "path-above": '[model]\npath = "../../../etc/passwd"\n',
        "path-nul": '[model]\npath = "a\\u0000b"\n',
        "prompts": '[task]\nprompts = "gsm8k"\nname = "gsm8k"\ndata = "/dev/null"\n',
        "pattern": '[task]\nextraction = "regex"\npattern = "(a*)*(\\\\w{1000}){1000}"\n',
        "memory": '[run]\nmemory = "99999999999999999999999GiB"\n',
        "memory-points": '[run]\nmemory = "1.2.3 GiB"\n',
        "device": '[run]\ndevice = "cuda:99999999999999999999"\n',
        "primary": '[report.primary]\narm = "a"\nagainst = "b"\nmethod = "final-vote"\niteration = 1\n' + arm.format("a") + arm.format("b"),
        "dotted": "a." * 79 + "b = 1\n",
        "dotted-deeper": "a." * 200 + "b = 1\n",
        "arrays": "a = " + "[" * 200,
        "tables": "a = " + "{a = " * 200,
        "headers": "[" + "a." * 100 + "b]\n",
        "twice": "[debate]\nrounds = 1\nrounds = 2\n",
        "table-twice": "[debate]\n[debate]\n",
        "open-string": 'a = """\n',
        "crlf": "[debate]\r\nrounds = 2\r\n",
        "sets": '[debate]\nrounds = 2\n\0debate.rounds=3\0sampling.stop=["a", "b"]\0task.name=math\0a.b.c.d.e.f.g.h.i.j=1\0=\0.=1',
        "set-arm": "\0arm=1\0grid.debate.rounds=[1,2]",
    }
    for name, source in nasty.items():
        yield name, source.encode()
    yield "not-utf8", b"[debate]\nrounds = 2 # \xff\n"
    yield "bom", b"\xef\xbb\xbf[debate]\nrounds = 2\n"


def seeds_answers():
    table = (ROOT / "tests/data/math_equivalence.tsv").read_text().splitlines()
    rows = [line.split("\t")[1:3] for line in table if line.count("\t") >= 2 and not line.startswith("#")]
    for i, row in enumerate(rows[:: max(1, len(rows) // 12)]):
        yield f"pair-{i:02}", "\0".join(row).encode()
    nasty = {
        "responses": "so \\boxed{550}. The answer is **$1,234.50**.\n#### -3/4 (C)",
        "digits": "9" * 5000,
        "digits-name": "x" + "9" * 3000,
        "digits-almost": "9" * 38 + "\0" + "1" + "0" * 38,
        "point": "." * 300 + "5" * 300,
        "exponent": "1e999\0" + "1e-999",
        "exponents": "10^{10^{10}}\0" + "10^{-10^{10}}",
        "tower": "2^" * 200 + "2",
        "tower-groups": "2^{" * 39 + "2" + "}" * 39,
        "factorials": "3" + "!" * 300,
        "factorial-names": "x" + "!" * 400,
        "fractions": "\\frac{1}{" * 39 + "x" + "}" * 39,
        "fractions-deep": "\\frac{" * 300,
        "continued": "1+\\frac{1}{" * 30 + "x" + "}" * 30,
        "roots": "\\sqrt{" * 39 + "x+1" + "}" * 39,
        "roots-numbers": "\\sqrt{" * 30 + "9999999967" + "}" * 30,
        "powers-of-sums": "(x+y+z+1)^{64}",
        "doubling": "\\sin((" * 12 + "x+1)^{16}" + ")+1)^{16}" * 11 + ")",
        "doubling-roots": "\\sqrt{(" * 12 + "x+1" + ")^{9}+1}" * 12,
        "doubling-abs": "|(" * 10 + "x+1" + ")^{9}+1|" * 10,
        "doubling-log": "\\log(" * 30 + "x^2+x" + ")" * 30,
        "many-names": "".join(chr(c) for c in range(0x3b1, 0x3b1 + 24)) * 3 + "+" + "abcdefghijklm" * 5,
        "power-of-names": "(" + "\\alpha\\beta\\gamma\\delta xyz" + "+1)^{32}",
        "division": "\\frac{x^{64}-1}{x-1}\0" + "\\frac{x^{60}-y^{60}}{x-y}",
        "conjugates": "\\frac{1}{\\sqrt2+\\sqrt3+\\sqrt5+\\sqrt7+\\sqrt{11}+\\sqrt{13}}",
        "roots-product": "\\sqrt2\\sqrt3\\sqrt5\\sqrt7\\sqrt{11}\\sqrt{13}\\sqrt{9999999967}\\sqrt{9999999943}",
        "imaginary": "(1+i)^{64}\0" + "\\frac{1+i}{1-i}",
        "binomial": "\\binom{200}{100}\0" + "\\binom{-1}{200}\\binom{3}{200}",
        "binomial-large": "\\binom{99999999999999999999}{2}",
        "largest": "170141183460469231731687303715884105727\0" + "-170141183460469231731687303715884105728",
        "largest-fraction": "\\frac{170141183460469231731687303715884105727}{170141183460469231731687303715884105726}",
        "smallest": "-170141183460469231731687303715884105728/-1",
        "zero-division": "\\frac{1}{0}\0" + "\\frac{0}{0}+4/0+0^{-1}+0^0",
        "base": "42_7\0" + "42_{10}",
        "mixed": "1 1/2\0" + "1\\frac{1}{2}",
        "repeating": "0.\\overline{3}\0" + "0." + "\\overline{" + "9" * 40 + "}",
        "sets": "\\{1, 2, \\{3, \\{4\\}\\}\\}\0" + "{{{{{1,2},3},4},5},6}",
        "sets-deep": "\\{" * 39 + "1" + "\\}" * 39,
        "lists-deep": "(1,(2,(3,(4,(5,(6,(7,(8,(9,(10,(11,(12,(13,(14,(15,(16,17))))))))))))))))",
        "relations-deep": "x=(1,y=(2,z=(3,a=(4,b=(5,c=(6,d=(7,e=(8,f=9))))))))",
        "relation-sets": "\\{x=\\{" * 15 + "1" + "\\}\\}" * 15,
        "interval": "[1, 2)\\cup(3, \\infty)\0" + "x<5",
        "inequalities": "1<x<=2<y<3\0" + "3>x>=1",
        "plus-minus": "1\\pm2\\mp3\\pm\\sqrt{4}",
        "matrix": "\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}",
        "matrix-open": "\\begin{pmatrix}" * 50,
        "matrix-deep": "\\begin{matrix}" * 30 + "1" + "\\end{matrix}" * 30,
        "texts": "\\text{" * 160 + "a" + "}" * 160,
        "texts-open": "\\text{" * 160,
        "fonts": "\\mathrm{\\mathbf{\\boxed{\\text{yes}}}}",
        "text-joined": "\\te\\text{xt{a}}\0" + "\\text{\\}a}{",
        "escapes": "\\\\text{a}\\{\\}\\\\}\\text{\\\\}",
        "boxed": "\\boxed{" * 100 + "1" + "}" * 100,
        "boxed-open": "\\boxed{" * 100,
        "boxed-spaces": "\\boxed" + " " * 500 + "{1}",
        "absolute": "|" * 100 + "x" + "|" * 100,
        "floors": "\\lfloor" * 35 + " 3.5 " + "\\rfloor" * 35,
        "brackets": "(" * 500,
        "brackets-closed": ")" * 500 + "(" * 500,
        "brackets-mixed": "([{" * 100,
        "minus": "-" * 500 + "5",
        "minus-spaces": "- " * 500 + "5",
        "currency": "$" * 500 + "5" + "$" * 500,
        "thousands": "1" + ",000" * 200 + "\0" + "1" + " 000" * 200,
        "units": "5 \\text{ cm}^2\0" + "5 miles per hour per hour per second",
        "percent": "50\\%\0" + "50%%%%%%",
        "degrees": "90^\\circ\0" + "90^{\\circ}^{\\circ}",
        "markers": "answer is " * 100 + "7",
        "choices": "(A) (b) ( **c** ) answer: D answer is E",
        "unicode": "\u2212\uff0d\u00a0\u202f5\u0301\u221e\u221a\u03c0\u00b1\u00d7\u00f7\u2205",
        "unicode-digits": "\u0661\u0662\u0663 \u00bd \u2167 \uff11\uff12",
        "lower-case": "\u0130answer is 5\u0130",
        "words": "no solution\0" + "No  Solution",
        "equations": "2x+4y=6\0" + "x+2y=3",
        "equation-powers": "x^{64}+y^{64}=(x+y)^{20}",
        "names": "f(x)=2x\0" + "\\angle ABC = 90^\\circ",
        "subscripts": "x_{" * 50 + "1" + "}" * 50,
        "subscript-chain": "x" + "_1" * 300,
        "functions": "\\sin\\cos\\tan\\log\\ln" * 20 + "x",
        "function-powers": "\\sin^{2}x+\\cos^{64}(x+1)^{64}",
        "exp": "\\exp(\\exp(\\exp(x+1)^{9})^{9})^{9}",
        "logarithm": "\\log_{10}x\0" + "\\log_{2_{3}}x",
        "dots": "0...5\0" + "1.2.3.4",
        "markdown": "**5**\0" + "2**3**4",
        "empty": "",
        "spaces": "   \0\t\n",
    }
    for name, text in nasty.items():
        yield name, text.encode()
    yield "not-utf8", b"\xff\xfe5\0\x80"


def seeds_session_lines():
    records = [{"text": "2+2=4", "adapter": "a"}]
    lines = {
        "load": {"op": "load", "adapter": "a", "source": "new:rank=16,init-seed=7", "id": 1},
        "load-settings": {"op": "load", "adapter": "a", "source": "new:rank=99999999999999999999,alpha=nan,targets=a+b,dropout=1"},
        "load-folder": {"op": "load", "adapter": "../a", "source": "../../../etc"},
        "generate": {"op": "generate", "records": [{"messages": [{"role": "user", "content": "hi"}], "temperature": 0.5, "n": 2, "stop": ["a"]}], "prompt_tokens": True},
        "generate-many": {"op": "generate", "records": [{"text": "a", "n": 2**32 - 1}]},
        "generate-tokens": {"op": "generate", "records": [{"tokens": [1, 2], "max_tokens": 2**32 - 1, "top_k": 2**32 - 1, "seed": 2**64 - 1}]},
        "generate-wrong": {"op": "generate", "records": [{"text": "a", "top_p": 0, "temperature": -1, "stop": [""]}]},
        "generate-key": {"op": "generate", "records": [{"text": "a", "key": 7, "n": 1}]},
        "score": {"op": "score", "records": records},
        "score-none": {"op": "score", "records": []},
        "train": {"op": "train", "adapters": {"a": {"records": records, "learning_rate": 0.01, "max_steps": 3}, "b": {"records": records}}},
        "train-long": {"op": "train", "adapters": {"a": {"records": records, "max_steps": 2**64 - 1}}},
        "train-epochs": {"op": "train", "adapters": {"a": {"records": records, "num_epochs": 2**64 - 1, "batch_size": 0}}},
        "train-batch": {"op": "train", "adapters": {"a": {"records": records, "batch_size": 1 << 24, "gradient_accumulation_steps": 1 << 24, "max_steps": 9}}},
        "train-numbers": {"op": "train", "adapters": {"a": {"records": records, "learning_rate": "nan", "adam_beta1": 1, "warmup_ratio": 2}}},
        "train-key": {"op": "train", "adapters": {"a": {"records": records, "key": -1, "keep_moments": 3}}},
        "train-names": {"op": "train", "adapters": {"a=b": {"records": records, "learning_rate": "a=b=1"}, "": {}}},
        "clone": {"op": "clone", "adapter": "a", "to": "b"},
        "reset": {"op": "reset", "adapter": "a"},
        "save": {"op": "save", "adapter": "a", "output": "/dev/null", "force": True},
        "drop": {"op": "drop", "adapter": "\x1b[2J"},
        "list": {"op": "list", "id": {"deep": [1, 2]}},
        "unknown": {"op": "exec", "command": "rm -rf /"},
        "unknown-field": {"op": "list", "x": 1},
    }
    for name, line in lines.items():
        yield name, json.dumps(line).encode() + b"\n"
    yield "several", b'{"op":"list"}\n\n{"op":"list","id":2}\n{\n'
    yield "twice", b'{"op":"list","op":"drop","adapter":"a"}\n'
    yield "numbers", b"1\nnull\n\"a\"\n[]\n"
    yield "infinite", b'{"op":"generate","records":[{"text":"a","temperature":1e400}]}\n'
    yield "nested", b'{"op":"list","id":' + b"[" * 200
    yield "not-utf8", b'{"op":"list","id":"\xff"}\n'
    yield "empty", b""


def main():
    for name, seeds in sorted(globals().items()):
        if not name.startswith("seeds_"):
            continue
        folder = CORPUS / name.removeprefix("seeds_")
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("seed-*"):
            old.unlink()
        count = 0
        for seed, contents in seeds():
            (folder / f"seed-{seed}").write_bytes(contents)
            count += 1
        print(f"{folder.name}: {count} seeds")


if __name__ == "__main__":
    main()
