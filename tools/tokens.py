"""Makes small tokenizers of the families and what transformers gives for them: token ids of texts and conversations, texts of token ids.

    pip install transformers tokenizers jinja2
    python tools/tokens.py         (writes tests/data/tokens/)
"""

import datetime
import json
from pathlib import Path

import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

DATA = Path(__file__).resolve().parent.parent / "tests/data"
CORPUS = ["What is 2+3*4? The answer is 14.", "I agree with the other agents: the answer is 20.", "Hello! How are you?\n\nFine, thanks.",
          "You are a helpful assistant. Be terse.", "user system assistant INST SYS", "One two three four five six seven.", "naïve café"] * 4
LLAMA_3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def special(content, **options):
    return AddedToken(content, special=True, normalized=False, **options)


def sentencepiece(tokens, modern):
    """Llama 2's kind: spaces are part of the pieces, one stands before all text, characters without a piece are bytes."""
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    trained = Tokenizer(model)
    trained.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    alphabet = sorted(set("".join(CORPUS)) - set("ïé \n"))
    trainer = trainers.BpeTrainer(vocab_size=160, initial_alphabet=alphabet, limit_alphabet=len(alphabet) + 1, show_progress=False)
    trained.train_from_iterator([text.replace("\n", " ") for text in CORPUS], trainer)
    parts = json.loads(trained.to_str())["model"]
    pieces = sorted(parts["vocab"], key=parts["vocab"].get)
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)] + [p for p in pieces if p not in "ïé\n"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = [tuple(m) for m in parts["merges"] if all(x in vocab for x in (m[0], m[1], m[0] + m[1]))]
    built = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if modern:
        built.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    else:
        built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    built.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)])
    built.add_special_tokens([special("<unk>"), special("<s>"), special("</s>"), *tokens])
    built.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])])
    return built


def byte_level(tokens, bos=None):
    """GPT-2's kind with Llama 3's split: every byte has a piece."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA_3_SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False)
    built.train_from_iterator(CORPUS + ["\n\n", "a\n\nb"] * 4, trainer)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(tokens)
    if bos is not None:
        built.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, built.token_to_id(bos))])
    return built


IM = [special("<|endoftext|>"), special("<|im_start|>"), special("<|im_end|>")]
LLAMA_3 = [special(f"<|{name}|>") for name in ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id")]
PHI_3 = [special("<|endoftext|>"), special("<|assistant|>", rstrip=True), special("<|end|>", rstrip=True),
         special("<|system|>", rstrip=True), special("<|user|>", rstrip=True)]
# Name: the tokenizer, its template, beginning and end of sequence, all tokens that end a generation.
FAMILIES = {
    "llama-2": (sentencepiece([], modern=False), "llama-2", "<s>", "</s>", ["</s>"]),
    "mistral": (sentencepiece([], modern=True), "mistral-v0.2", "<s>", "</s>", ["</s>"]),
    "zephyr": (sentencepiece([], modern=False), "zephyr", "<s>", "</s>", ["</s>"]),
    "phi-3": (sentencepiece(PHI_3, modern=False), "phi-3", "<s>", "<|endoftext|>", ["<|endoftext|>", "<|end|>"]),
    "llama-3": (byte_level(LLAMA_3, "<|begin_of_text|>"), "llama-3.2", "<|begin_of_text|>", "<|eot_id|>", ["<|end_of_text|>", "<|eot_id|>"]),
    "chatml": (byte_level(IM), "smollm2", "<|im_start|>", "<|im_end|>", ["<|im_end|>"]),
    "qwen3": (byte_level(IM), "qwen3", None, "<|im_end|>", ["<|im_end|>", "<|endoftext|>"]),
}

TEXTS = ["", "Hello", " Hello", "  two  spaces ", "\n", "\n\nHello\n", "café naïve 日本語 😀👩‍🚀", "tab\tand \u00a0 space", "</s> and <|im_end|><|eot_id|>",
         "<s>Hello", "<0x41>", "▁▁", "a\u0000b", "e\u0301", "12345 + 678"]


def turn(role, content):
    return {"role": role, "content": content}


CONVERSATIONS = {
    "one turn": [turn("user", "What is 2+3*4?"), turn("assistant", "The answer is 14.")],
    "three turns": [turn("user", "Hello!"), turn("assistant", "Hello! How are you?"), turn("user", "Fine. What is 2+3?"),
                    turn("assistant", "Five."), turn("user", "The other agents say 6."), turn("assistant", "I agree with five.")],
    "system prompt": [turn("system", "Be terse."), turn("user", "café 😀?"), turn("assistant", "日本語 naïve"), turn("user", "a"), turn("assistant", "b")],
    "spaces": [turn("user", " a\n"), turn("assistant", "\n\nb "), turn("user", "c"), turn("assistant", "  d")],
    "special tokens": [turn("user", "<s> </s><|im_end|><|eot_id|><|end|>"), turn("assistant", "ok")],
    "empty": [turn("user", ""), turn("assistant", "")],
}


class Moment(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def decoded(fast, ids):
    return {"ids": ids, "text": fast.decode(ids, skip_special_tokens=True)}


def family(name):
    built, template, bos, eos, ends = FAMILIES[name]
    fast = PreTrainedTokenizerFast(tokenizer_object=built, bos_token=bos, eos_token=eos)
    fast.chat_template = (DATA / f"chat_templates/{template}.jinja").read_text(encoding="utf-8")
    byte = (lambda b: built.token_to_id(f"<0x{b:02X}>")) if built.token_to_id("<0x00>") is not None else (
        lambda b: built.token_to_id(sorted(pre_tokenizers.ByteLevel.alphabet(), key=byte_of)[b]))
    pieces = [[byte(b) for b in part] for part in (
        "é".encode(), "😀é!".encode(), b"\xf0\x9f\x98", b"\xff", b"\xc3(", b"\xe2\x82\xac\xff", b"\xed\xa0\x80", b"a\xc3", b"\x80\x80a\xf0\x9f")]
    plain = [built.encode(text, add_special_tokens=False).ids for text in TEXTS]
    rows = []
    for conversation, messages in CONVERSATIONS.items():
        for ask in (False, True):
            shown = messages if not ask else messages[:-1]
            try:
                ids = fast.apply_chat_template(shown, add_generation_prompt=ask, tokenize=True, return_dict=False)
            except Exception as e:
                ids = None
                assert "raise" in repr(e) or "roles" in str(e), e
            rows.append({"conversation": conversation, "add_generation_prompt": ask, "ids": ids})
    return {
        "template": template, "bos_token": bos, "eos_token": eos, "ends": [built.token_to_id(end) for end in ends],
        "texts": [{"text": text, "ids": fast(text).input_ids, "without_special": ids} for text, ids in zip(TEXTS, plain)],
        "decoded": [decoded(fast, ids) for ids in plain + pieces + [built.encode("Hello").ids + byte_ids for byte_ids in pieces]],
        "conversations": rows,
    }


def byte_of(char):
    """The byte that GPT-2's alphabet writes as this character."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
    others = [b for b in range(256) if b not in printable]
    return ord(char) if ord(char) < 256 else others[ord(char) - 256]


def main():
    chat_template_utils.datetime = Moment
    folder = DATA / "tokens"
    folder.mkdir(exist_ok=True)
    for name, (built, *_) in FAMILIES.items():
        (folder / f"{name}.json").write_text(json.dumps(json.loads(built.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    table = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__, "conversations": CONVERSATIONS,
             "families": {name: family(name) for name in FAMILIES}}
    rows = json.dumps(table, ensure_ascii=False)
    for start in ('"families": {', '"texts": [', '"decoded": [', '"conversations": [', '{"text": ', '{"ids": ', '{"conversation": '):
        rows = rows.replace(start, "\n" + start)
    (folder / "expected.json").write_text(rows + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
