"""The model in PyTorch: a Llama decoder with tied embeddings, a batched sampler, and its Hugging Face form."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the decoder."""

    vocab: int = 352
    hidden: int = 128
    layers: int = 5
    heads: int = 4
    inner: int = 384
    context: int = 1024
    theta: float = 10000.0
    epsilon: float = 1e-5


def rotate(x, cos, sin):
    """Rotary embedding in the half-split form of Hugging Face."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class Layer(nn.Module):
    """One decoder layer; q, k, v and gate, up are fused and split again on export."""

    def __init__(self, shape):
        super().__init__()
        self.heads, self.epsilon = shape.heads, shape.epsilon
        self.norm1 = nn.Parameter(torch.ones(shape.hidden))
        self.norm2 = nn.Parameter(torch.ones(shape.hidden))
        self.qkv = nn.Parameter(torch.randn(3 * shape.hidden, shape.hidden) * shape.hidden**-0.5)
        self.out = nn.Parameter(torch.randn(shape.hidden, shape.hidden) * (2 * shape.layers * shape.hidden) ** -0.5)
        self.up = nn.Parameter(torch.randn(2 * shape.inner, shape.hidden) * shape.hidden**-0.5)
        self.down = nn.Parameter(torch.randn(shape.hidden, shape.inner) * (2 * shape.layers * shape.inner) ** -0.5)

    def forward(self, x, cos, sin, cache=None, start=0, mask=None):
        b, t, d = x.shape
        h = F.linear(F.rms_norm(x, (d,), self.norm1, self.epsilon), self.qkv)
        q, k, v = h.view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            cache[0, :, :, start:start + t], cache[1, :, :, start:start + t] = k, v
            k, v = cache[0, :, :, :start + t], cache[1, :, :, :start + t]
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + F.linear(h.transpose(1, 2).reshape(b, t, d), self.out)
        gate, up = F.linear(F.rms_norm(x, (d,), self.norm2, self.epsilon), self.up).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, self.down)


class Network(nn.Module):
    """The decoder. `forward` returns the final hidden states; logits are those times the embedding."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocab, shape.hidden) * 0.05)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))
        size = shape.hidden // shape.heads
        frequency = shape.theta ** (-torch.arange(0, size, 2).float() / size)
        angle = torch.outer(torch.arange(shape.context).float(), frequency).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids):
        x = F.embedding(ids, self.embedding)
        cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.rms_norm(x, x.shape[-1:], self.norm, self.shape.epsilon)

    def loss(self, hidden, ids, learn):
        """Mean loss of predicting the tokens where `learn` is set, from the hidden states of ids (batch, length)."""
        keep = learn[:, 1:]
        return F.cross_entropy(F.linear(hidden[:, :-1][keep], self.embedding).float(), ids[:, 1:][keep])

    @torch.inference_mode()
    def sample(self, prompts, end, limit, temperature=1.0, batch=768, generator=None):
        """Continuations (token lists without `end`) of token lists; None for one that reached `limit`.
        Temperature 0 is greedy."""
        results = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for at in range(0, len(order), batch):
            self._sample_batch(prompts, order[at:at + batch], results, end, limit, temperature, generator)
        return results

    def _sample_batch(self, prompts, rows, results, end, limit, temperature, generator):
        width = max(len(prompts[i]) for i in rows)
        pad = torch.tensor([width - len(prompts[i]) for i in rows])
        ids = torch.tensor([[0] * (width - len(prompts[i])) + prompts[i] for i in rows])
        cache = torch.zeros(self.shape.layers, 2, len(rows), self.shape.heads, width + limit,
                            self.shape.hidden // self.shape.heads)
        written = {i: [] for i in rows}
        rows, start = list(rows), 0
        for _ in range(limit):
            positions = torch.arange(start, start + ids.shape[1])
            local = (positions[None] - pad[:, None]).clamp(min=0)
            seen = torch.arange(start + ids.shape[1])
            mask = (seen[None, None] <= positions[None, :, None]) & (seen[None, None] >= pad[:, None, None])
            mask |= (positions[None, :, None] < pad[:, None, None]) & (seen[None, None] == 0)
            x = F.embedding(ids, self.embedding)
            cos, sin = self.cos[local][:, None], self.sin[local][:, None]
            for i, layer in enumerate(self.layers):
                x = layer.forward(x, cos, sin, cache[i], start, mask[:, None])  # not compiled
            start += ids.shape[1]
            last = F.rms_norm(x[:, -1], x.shape[-1:], self.norm, self.shape.epsilon)
            logits = F.linear(last, self.embedding).float()
            if temperature == 0:
                token = logits.argmax(-1)
            else:
                token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
            for row, value in zip(rows, token.tolist()):
                if row in written and value == end:
                    results[row] = written.pop(row)
                elif row in written:
                    written[row].append(value)
            if not written:
                return
            going = [j for j, row in enumerate(rows) if row in written]
            ids = token[:, None]
            if len(going) < 0.75 * len(rows):
                cache, pad, ids = cache[:, :, going], pad[going], ids[going]
                rows = [rows[j] for j in going]


def tensors(network):
    """The weights under Hugging Face names, as bfloat16."""
    out = {"model.embed_tokens.weight": network.embedding, "model.norm.weight": network.norm}
    for i, layer in enumerate(network.layers):
        name = f"model.layers.{i}."
        q, k, v = layer.qkv.chunk(3)
        gate, up = layer.up.chunk(2)
        out |= {
            name + "input_layernorm.weight": layer.norm1, name + "post_attention_layernorm.weight": layer.norm2,
            name + "self_attn.q_proj.weight": q, name + "self_attn.k_proj.weight": k,
            name + "self_attn.v_proj.weight": v, name + "self_attn.o_proj.weight": layer.out,
            name + "mlp.gate_proj.weight": gate, name + "mlp.up_proj.weight": up,
            name + "mlp.down_proj.weight": layer.down,
        }
    return {name: value.detach().to(torch.bfloat16).contiguous() for name, value in out.items()}


def save(network, folder, pad, end):
    """Writes config.json, generation_config.json and model.safetensors."""
    s = network.shape
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16", "torch_dtype": "bfloat16",
        "vocab_size": s.vocab, "hidden_size": s.hidden, "intermediate_size": s.inner, "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads, "num_key_value_heads": s.heads, "head_dim": s.hidden // s.heads,
        "hidden_act": "silu", "max_position_embeddings": s.context, "rms_norm_eps": s.epsilon,
        "rope_theta": s.theta, "rope_scaling": None, "attention_bias": False, "attention_dropout": 0.0,
        "mlp_bias": False, "tie_word_embeddings": True, "initializer_range": 0.02, "use_cache": True,
        "bos_token_id": None, "eos_token_id": end, "pad_token_id": pad,
    }
    generation = {"eos_token_id": end, "pad_token_id": pad, "do_sample": True, "temperature": 1.0, "top_p": 1.0}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    save_file(tensors(network), folder / "model.safetensors", metadata={"format": "pt"})


def load(folder):
    """A Network from a folder written by `save`."""
    config = json.loads((Path(folder) / "config.json").read_text())
    shape = Shape(config["vocab_size"], config["hidden_size"], config["num_hidden_layers"],
                  config["num_attention_heads"], config["intermediate_size"], config["max_position_embeddings"],
                  config["rope_theta"], config["rms_norm_eps"])
    network = Network(shape)
    stored = {name: value.float() for name, value in load_file(Path(folder) / "model.safetensors").items()}
    fused = {"embedding": stored["model.embed_tokens.weight"], "norm": stored["model.norm.weight"]}
    for i in range(shape.layers):
        at = f"model.layers.{i}."
        fused |= {
            f"layers.{i}.norm1": stored[at + "input_layernorm.weight"],
            f"layers.{i}.norm2": stored[at + "post_attention_layernorm.weight"],
            f"layers.{i}.qkv": torch.cat([stored[at + f"self_attn.{x}_proj.weight"] for x in "qkv"]),
            f"layers.{i}.out": stored[at + "self_attn.o_proj.weight"],
            f"layers.{i}.up": torch.cat([stored[at + f"mlp.{x}_proj.weight"] for x in ("gate", "up")]),
            f"layers.{i}.down": stored[at + "mlp.down_proj.weight"],
        }
    network.load_state_dict(fused)
    return network.eval()


def from_checkpoint(path):
    """A Network from a checkpoint of train.py, with its weights rounded to bfloat16 as on export."""
    state = torch.load(path, weights_only=False)
    network = Network(Shape(**state["shape"]))
    network.load_state_dict({name: value.bfloat16().float() for name, value in state["network"].items()})
    return network.eval()
