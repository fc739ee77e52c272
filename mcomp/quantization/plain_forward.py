"""The transformer layers of ``torch.nn`` as straight sequences of their parts.

Their own ``forward`` picks a fused path by the values and shapes at hand, which a symbolic trace cannot follow; in
training it does what stands here (Vaswani et al., arXiv:1706.03762; ``norm_first``: Xiong et al., arXiv:2002.04745).
"""

from __future__ import annotations

from typing import Any

from torch import nn


def _attend(layer: Any, attention: str, dropout: str, x: Any, memory: Any, mask: Any, padding: Any) -> Any:
    attended = getattr(layer, attention)(
        x, memory, memory, attn_mask=mask, key_padding_mask=padding, need_weights=False
    )
    return getattr(layer, dropout)(attended[0])


def _feed_forward(layer: Any, last: str, x: Any) -> Any:
    return getattr(layer, last)(layer.linear2(layer.dropout(layer.activation(layer.linear1(x)))))


def encoder_layer(
    layer: Any, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
) -> Any:
    """``nn.TransformerEncoderLayer``; ``is_causal`` is a hint that ``src_mask`` makes good."""
    x = src
    if layer.norm_first:
        y = layer.norm1(x)
        x = x + _attend(layer, "self_attn", "dropout1", y, y, src_mask, src_key_padding_mask)
        return x + _feed_forward(layer, "dropout2", layer.norm2(x))
    x = layer.norm1(x + _attend(layer, "self_attn", "dropout1", x, x, src_mask, src_key_padding_mask))
    return layer.norm2(x + _feed_forward(layer, "dropout2", x))


def decoder_layer(
    layer: Any,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    tgt_is_causal: bool = False,
    memory_is_causal: bool = False,
) -> Any:
    """``nn.TransformerDecoderLayer``."""
    own = (tgt_mask, tgt_key_padding_mask)
    other = (memory_mask, memory_key_padding_mask)
    x = tgt
    if layer.norm_first:
        y = layer.norm1(x)
        x = x + _attend(layer, "self_attn", "dropout1", y, y, *own)
        x = x + _attend(layer, "multihead_attn", "dropout2", layer.norm2(x), memory, *other)
        return x + _feed_forward(layer, "dropout3", layer.norm3(x))
    x = layer.norm1(x + _attend(layer, "self_attn", "dropout1", x, x, *own))
    x = layer.norm2(x + _attend(layer, "multihead_attn", "dropout2", x, memory, *other))
    return layer.norm3(x + _feed_forward(layer, "dropout3", x))


def encoder(
    stack: Any, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
) -> Any:
    """``nn.TransformerEncoder``."""
    x = src
    for layer in stack.layers:
        x = layer(x, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return x if stack.norm is None else stack.norm(x)


def decoder(
    stack: Any,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Any:
    """``nn.TransformerDecoder``."""
    x = tgt
    for layer in stack.layers:
        x = layer(x, memory, tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
    return x if stack.norm is None else stack.norm(x)


def transformer(
    model: Any,
    src: Any,
    tgt: Any,
    src_mask: Any = None,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    src_key_padding_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    src_is_causal: bool | None = None,
    tgt_is_causal: bool | None = None,
    memory_is_causal: bool = False,
) -> Any:
    """``nn.Transformer``."""
    memory = model.encoder(src, mask=src_mask, src_key_padding_mask=src_key_padding_mask)
    masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
    return model.decoder(tgt, memory, *masks)


class PlainEncoderLayer(nn.TransformerEncoderLayer):
    """A layer without the fused path of eval mode, which reads float weights behind a quantised layer's back."""

    forward = encoder_layer


class PlainDecoderLayer(nn.TransformerDecoderLayer):
    """Likewise of a decoder."""

    forward = decoder_layer


class PlainEncoder(nn.TransformerEncoder):
    """A stack without nested tensors."""

    forward = encoder


class PlainDecoder(nn.TransformerDecoder):
    """Likewise of a decoder."""

    forward = decoder


class PlainTransformer(nn.Transformer):
    """Encoder and decoder, without checks of shapes."""

    forward = transformer


PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    nn.TransformerEncoderLayer: PlainEncoderLayer,
    nn.TransformerDecoderLayer: PlainDecoderLayer,
    nn.TransformerEncoder: PlainEncoder,
    nn.TransformerDecoder: PlainDecoder,
    nn.Transformer: PlainTransformer,
}


def make_plain(model: nn.Module) -> None:
    """Let every transformer layer of ``model`` run its plain forward, ``model`` itself included."""
    for module in model.modules():
        if type(module) in PLAIN:
            module.__class__ = PLAIN[type(module)]
