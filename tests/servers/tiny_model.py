"""Write a language model of random weights and one megabyte: `python tiny_model.py OUT.gguf`.

It says nothing sensible, always the same. Runs in the environment that has `gguf`; downloads nothing.
"""

from __future__ import annotations

import sys

import gguf
import numpy as np

WIDTH, HEADS, LAYERS, FEED_FORWARD, CONTEXT_TOKENS = 64, 4, 2, 128, 4096
LETTERS = "▁etaoinshrdlucmfwypvbgkjqxz0123456789.,"
WORDS = ("▁the", "▁of", "▁and", "▁to", "▁in", "▁is", "er", "th", "in", "on", "an", "he")
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
KIND = gguf.TokenType


def vocabulary() -> list[tuple[bytes, float, int]]:
    """Return tokens with their scores and kinds: controls, bytes, letters, words."""
    controls = [(b"<unk>", 0.0, KIND.UNKNOWN), (b"<s>", 0.0, KIND.CONTROL), (b"</s>", 0.0, KIND.CONTROL)]
    data = [(f"<0x{byte:02X}>".encode(), 0.0, KIND.BYTE) for byte in range(256)]
    letters = [(letter.encode(), -rank - 1.0, KIND.NORMAL) for rank, letter in enumerate(LETTERS)]
    words = [(word.encode(), -rank / 100, KIND.NORMAL) for rank, word in enumerate(WORDS)]
    return [*controls, *data, *letters, *words]


def add_shape(writer: gguf.GGUFWriter) -> None:
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def add_tokens(writer: gguf.GGUFWriter) -> int:
    """Add the tokenizer; return how many tokens it has."""
    tokens = vocabulary()
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([token for token, _, _ in tokens])
    writer.add_token_scores([score for _, score, _ in tokens])
    writer.add_token_types([int(kind) for _, _, kind in tokens])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE)
    return len(tokens)


def add_weights(writer: gguf.GGUFWriter, tokens: int) -> None:
    random = np.random.default_rng(0)

    def weights(*shape: int, scale: float = 0.2) -> np.ndarray:
        return (random.standard_normal(shape) * scale).astype(np.float32)

    ones = np.ones(WIDTH, np.float32)
    printable = 3 + 256
    output = weights(tokens, WIDTH, scale=1.0)
    output[:printable] *= 0.05  # letters and words win over bytes
    output[2] = output[printable + 1] * 0.98  # and an end comes now and then
    writer.add_tensor("token_embd.weight", weights(tokens, WIDTH, scale=1.0))
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", ones)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{name}.weight", ones)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"{block}{name}.weight", weights(WIDTH, WIDTH))
        for name in ("ffn_gate", "ffn_up"):
            writer.add_tensor(f"{block}{name}.weight", weights(FEED_FORWARD, WIDTH))
        writer.add_tensor(f"{block}ffn_down.weight", weights(WIDTH, FEED_FORWARD))


def main() -> None:
    writer = gguf.GGUFWriter(sys.argv[1], "llama")
    add_shape(writer)
    add_weights(writer, add_tokens(writer))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
