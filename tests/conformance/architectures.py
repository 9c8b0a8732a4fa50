"""Small nets of every architecture that people train, with a batch and a loss each; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from surgecollapse.act.roles import Role

TOKENS, CLASSES = 64, 3


@dataclass(frozen=True)
class Architecture:
    """One net of the conformance table.

    Args:
        build: makes the net.
        batch: makes a batch, as the net is called (a tensor, a tuple or a dict).
        pruned: pattern of the names of all weights that are pruned by default, and of no others.
        dense: patterns of names of what stays dense, with the role that says why.
        needs: the package that it is built with.
        says: what ``attach`` warns of.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[], Any]
    pruned: str
    dense: dict[str, Role]
    needs: str = "torch"
    says: str | None = None


def called(net: nn.Module, batch: Any) -> Any:
    """Call a net as its batch says."""
    if isinstance(batch, dict):
        return net(**batch)
    return net(*batch) if isinstance(batch, tuple) else net(batch)


def loss_of(out: Any) -> torch.Tensor:
    """The net's own loss if it returns one, else the mean square of its first output."""
    loss = getattr(out, "loss", None)
    if loss is not None:
        return loss
    while isinstance(out, (tuple, list)):
        out = out[0]
    if isinstance(out, dict):
        out = next(iter(out.values()))
    if out.is_nested:
        out = torch.cat([row.flatten() for row in out.unbind()])
    return (out - 1.0).square().mean()


# --- Nets in plain torch ---------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """Embedding, recurrent layer, classifier of the last step."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(TOKENS, 16), kind(16, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embed(ids))[0][:, -1])


class UNet(nn.Module):
    """Two scales, a transposed convolution up, a skip connection, logits of every pixel."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())

        self.down1, self.down2, self.up1 = block(3, 8), block(8, 16), block(16, 8)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.out = nn.Conv2d(8, CLASSES, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        return self.out(self.up1(torch.cat([first, self.up(second)], 1)))


class Grouped(nn.Module):
    """Grouped and depthwise convolutions, as in ResNeXt and MobileNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grouped = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.depthwise, self.pointwise = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 24, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (16, 16, 16, 24))
        self.fc = nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer, norm in zip((self.stem, self.grouped, self.depthwise, self.pointwise), self.norms, strict=True):
            x = F.relu(norm(layer(x)))
        return self.fc(x.mean((2, 3)))


class Decoder(nn.Module):
    """A generator of images: transposed convolutions, one of them grouped, to pixels in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 16 * 4 * 4)
        self.up = nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1, groups=2)
        self.pixels = nn.ConvTranspose2d(16, 3, 4, stride=2, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.fc(z)).unflatten(1, (16, 4, 4))
        return self.pixels(F.relu(self.up(x))).sigmoid()


class Translator(nn.Module):
    """``nn.Transformer`` with bare positions, between embeddings and logits."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pos = nn.Embedding(TOKENS, 16), nn.Parameter(torch.randn(1, 12, 16) * 0.02)
        self.net = nn.Transformer(16, 2, 2, 2, 32, batch_first=True, dropout=0.0)
        self.generator = nn.Linear(16, TOKENS)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        a, b = (self.embed(ids) + self.pos[:, : ids.shape[1]] for ids in (source, target))
        return self.generator(self.net(a, b))


class NestedEncoder(nn.Module):
    """Sequences of several lengths in one nested tensor, read by linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.inner, self.head = nn.Linear(8, 24), nn.Linear(24, 24), nn.Linear(24, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.inner(F.relu(self.body(x)))))


class SparseInput(nn.Module):
    """A bag of words as a sparse matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(40, 16) * 0.1)
        self.body, self.head = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.relu(self.body(F.relu(torch.sparse.mm(x, self.weight)))))


class Graph(nn.Module):
    """Convolutions on a graph that is given by edges, written out: mean over neighbors, then a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.readout = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        for layer in (self.first, self.second):
            h = layer(x)
            x = F.relu(torch.zeros_like(h).index_add_(0, edge_index[1], h[edge_index[0]]) + h)
        return self.readout(x)


class Adapted(nn.Module):
    """Linear layers with trained low-rank factors beside frozen weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_LowRank(16, 16) for _ in range(2))
        self.mix, self.head = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(F.relu(self.mix(x)))


class _LowRank(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.lora_A, self.lora_B = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x))


def geometric() -> nn.Module:
    """Two layers of PyTorch Geometric and a readout."""
    from torch_geometric.nn import GATConv, GCNConv

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.readout = GCNConv(8, 16), GATConv(16, 8, heads=2), nn.Linear(16, CLASSES)

        def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
            x = F.relu(self.first(x, edge_index))
            return self.readout(F.relu(self.second(x, edge_index)))

    return Net()


# --- Nets of transformers, from their configurations -----------------------------------------------------------------


def hugging(name: str, config: str, **sizes: Any) -> Callable[[], nn.Module]:
    """A net of ``transformers``, by the names of its class and of its configuration."""

    def build() -> nn.Module:
        import transformers

        return getattr(transformers, name)(getattr(transformers, config)(**sizes))

    return build


def clip() -> nn.Module:
    """Two towers and their similarities."""
    import transformers

    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    text = {**tower, "vocab_size": TOKENS, "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 16}
    image = {**tower, "image_size": 16, "patch_size": 8}
    return transformers.CLIPModel(transformers.CLIPConfig(text_config=text, vision_config=image, projection_dim=16))


def detr() -> nn.Module:
    """A convolutional backbone, frozen as DETR leaves its first stages, and a transformer with object queries."""
    import transformers

    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], out_features=["stage2"], layer_type="basic"
    )
    sizes = {name: size for name, size in BART.items() if name not in SPECIAL and name != "decoder_start_token_id"}
    config = transformers.DetrConfig(backbone_config=backbone, num_queries=5, num_labels=CLASSES, **sizes)
    return transformers.DetrForObjectDetection(config)


SPECIAL = {"vocab_size": TOKENS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BLOCKS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
GROUPED = {**SPECIAL, **BLOCKS, "num_key_value_heads": 1, "head_dim": 8}
T5 = {"vocab_size": TOKENS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
BART = {
    **SPECIAL, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "decoder_start_token_id": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}


def _ids(rows: int = 8, length: int = 6) -> torch.Tensor:
    return torch.randint(3, TOKENS, (rows, length), generator=torch.Generator().manual_seed(1))


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def _labels(rows: int = 8) -> torch.Tensor:
    return torch.arange(rows) % CLASSES


def sentences() -> dict[str, torch.Tensor]:
    """Tokens with a class for each sentence."""
    return {"input_ids": _ids(), "labels": _labels()}


def language() -> dict[str, torch.Tensor]:
    """Tokens that are their own targets."""
    return {"input_ids": _ids(), "labels": _ids()}


def images(size: int = 16) -> dict[str, torch.Tensor]:
    """Images with their classes."""
    return {"pixel_values": _noise(8, 3, size, size), "labels": _labels()}


def captions() -> dict[str, Any]:
    """Images with a text each, which ends with its token."""
    ends = torch.full((8, 1), 2)
    return {"input_ids": torch.cat([_ids(), ends], 1), "pixel_values": _noise(8, 3, 16, 16), "return_loss": True}


def edges() -> tuple[torch.Tensor, torch.Tensor]:
    """A ring of 40 nodes."""
    here = torch.arange(40)
    return _noise(40, 8), torch.stack([here, (here + 1) % 40])


def lengths() -> torch.Tensor:
    """Sequences of several lengths in one nested tensor."""
    return torch.nested.nested_tensor([_noise(n, 8) for n in (5, 7, 3, 6)], layout=torch.jagged)


def words() -> torch.Tensor:
    """Counts of words, most of them zero."""
    counts = _noise(16, 40)
    return (counts * (counts > 1)).to_sparse()


HF = "transformers"
ARCHITECTURES: dict[str, Architecture] = {
    "BERT, classification": Architecture(
        hugging("BertForSequenceClassification", "BertConfig", **SPECIAL, **BLOCKS, num_labels=CLASSES),
        sentences,
        r"bert\.(encoder\..*(query|key|value|dense)|pooler\.dense)\.weight",
        {r"classifier\.weight": "output layer", r"bert\.embeddings\.\w+_embeddings\.weight": "embedding"},
        HF,
    ),
    "BERT, masked language model, tied": Architecture(
        hugging("BertForMaskedLM", "BertConfig", **SPECIAL, **BLOCKS),
        language,
        r"(bert\.encoder\..*(query|key|value|dense)|cls\.predictions\.transform\.dense)\.weight",
        {r"bert\.embeddings\.word_embeddings\.weight": "embedding", r"cls\.predictions\.bias": "bias"},
        HF,
    ),
    "GPT-2": Architecture(
        hugging("GPT2LMHeadModel", "GPT2Config", **SPECIAL, n_embd=16, n_layer=1, n_head=2, n_positions=16),
        language,
        r"transformer\.h\.0\.(attn|mlp)\.c_(attn|fc|proj)\.weight",
        {r"transformer\.w[tp]e\.weight": "embedding"},
        HF,
    ),
    "Llama": Architecture(
        hugging("LlamaForCausalLM", "LlamaConfig", **GROUPED),
        language,
        r"model\.layers\.0\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight",
        {r"lm_head\.weight": "output layer", r"model\.embed_tokens\.weight": "embedding", r".*norm\.weight": "norm"},
        HF,
    ),
    "Llama, tied": Architecture(
        hugging("LlamaForCausalLM", "LlamaConfig", **GROUPED, tie_word_embeddings=True),
        language,
        r"model\.layers\.0\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj\.weight",
        {r"model\.embed_tokens\.weight": "embedding"},
        HF,
    ),
    "T5": Architecture(
        hugging("T5ForConditionalGeneration", "T5Config", **T5, decoder_start_token_id=0),
        language,
        r"(en|de)coder\.block\.0\.layer\.\d\.\w+\.([qkvo]|w[io])\.weight",
        {r"shared\.weight": "embedding", r".*relative_attention_bias\.weight": "embedding"},
        HF,
    ),
    "T5, gated": Architecture(
        hugging(
            "T5ForConditionalGeneration",
            "T5Config",
            **T5,
            decoder_start_token_id=0,
            feed_forward_proj="gated-gelu",
        ),
        language,
        r"(en|de)coder\.block\.0\.layer\.\d\.\w+\.([qkvo]|wi_[01]|wo)\.weight",
        {r"shared\.weight": "embedding", r".*layer_norm\.weight": "norm"},
        HF,
    ),
    "BART": Architecture(
        hugging("BartForConditionalGeneration", "BartConfig", **BART, forced_eos_token_id=2),
        language,
        r"model\.(en|de)coder\.layers\.0\.((self|encoder)_attn\.\w+_proj|fc[12])\.weight",
        {r"model\.shared\.weight": "embedding", r".*embed_positions\.weight": "embedding"},
        HF,
    ),
    "ViT": Architecture(
        hugging("ViTForImageClassification", "ViTConfig", **BLOCKS, image_size=16, patch_size=4, num_labels=CLASSES),
        images,
        r"vit\.(embeddings\.patch_embeddings\.projection|layers\.0\.(attention\.[qkvo]_proj|mlp\.fc[12]))\.weight",
        {r"classifier\.weight": "output layer", r"vit\.embeddings\.(cls_token|position_embeddings)": "embedding"},
        HF,
    ),
    "CLIP": Architecture(
        clip,
        captions,
        r"(text|vision)_model\.(encoder\.layers\.0\.(self_attn\.\w+_proj|mlp\.fc[12])|embeddings\.patch_embedding)\.weight",
        {r"(visual|text)_projection\.weight": "output layer", r"logit_scale": "vector"},
        HF,
    ),
    "ResNet": Architecture(
        hugging(
            "ResNetForImageClassification",
            "ResNetConfig",
            embedding_size=8,
            hidden_sizes=[8, 16],
            depths=[1, 1],
            num_labels=CLASSES,
            layer_type="basic",
        ),
        lambda: images(32),
        r"resnet\..*convolution\.weight",
        {r"classifier\.1\.weight": "output layer", r".*normalization\.weight": "norm"},
        HF,
    ),
    "ConvNeXt": Architecture(
        hugging(
            "ConvNextForImageClassification",
            "ConvNextConfig",
            hidden_sizes=[8, 16],
            depths=[1, 1],
            num_stages=2,
            num_labels=CLASSES,
        ),
        images,
        r"convnext\..*(patch_embeddings|dwconv|pwconv[12]|downsampling_layer\.1)\.weight",
        {r"classifier\.weight": "output layer", r".*layer_scale_parameter": "vector"},
        HF,
    ),
    "Whisper": Architecture(
        hugging(
            "WhisperForConditionalGeneration",
            "WhisperConfig",
            **(BART | {"decoder_start_token_id": 1}),
            num_mel_bins=8,
            max_source_positions=8,
            max_target_positions=16,
        ),
        lambda: {"input_features": _noise(8, 8, 16), "labels": _ids()},
        r"model\.(encoder\.conv[12]|(en|de)coder\.layers\.0\.((self|encoder)_attn\.\w+_proj|fc[12]))\.weight",
        {r"model\.decoder\.embed_tokens\.weight": "embedding", r".*embed_positions\.weight": "embedding"},
        HF,
    ),
    "wav2vec 2.0": Architecture(
        hugging(
            "Wav2Vec2ForCTC",
            "Wav2Vec2Config",
            **SPECIAL,
            **BLOCKS,
            conv_dim=[8, 8],
            conv_stride=[5, 2],
            conv_kernel=[10, 3],
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            mask_time_prob=0.0,
            ctc_zero_infinity=True,
            layerdrop=0.0,
        ),
        lambda: {"input_values": _noise(4, 200), "labels": _ids(4, 5)},
        r"wav2vec2\.(feature_(extractor\.conv_layers\.\d\.conv|projection\.projection)"
        r"|encoder\.layers\.0\.(attention\.\w+_proj|feed_forward\.\w+_dense))\.weight",
        {
            r"lm_head\.weight": "output layer",
            r".*pos_conv_embed\.conv\.parametrizations\.weight\.original[01]": "computed weight",
        },
        HF,
    ),
    "Mixtral": Architecture(
        hugging("MixtralForCausalLM", "MixtralConfig", **GROUPED, num_local_experts=4),
        language,
        r"model\.layers\.0\.(self_attn\.[qkvo]_proj\.weight|mlp\.experts\.(gate_up|down)_proj)",
        {r"lm_head\.weight": "output layer", r"model\.layers\.0\.mlp\.gate\.weight": "router"},
        HF,
    ),
    "Qwen2-MoE": Architecture(
        hugging("Qwen2MoeForCausalLM", "Qwen2MoeConfig", **GROUPED, **EXPERTS, shared_expert_intermediate_size=12),
        language,
        r"model\.layers\.0\.(self_attn\.[qkvo]_proj\.weight|mlp\.experts\.(gate_up|down)_proj"
        r"|mlp\.shared_expert\.(gate|up|down)_proj\.weight)",
        {r"model\.layers\.0\.mlp\.(gate|shared_expert_gate)\.weight": "router"},
        HF,
    ),
    "Qwen3-MoE": Architecture(
        hugging("Qwen3MoeForCausalLM", "Qwen3MoeConfig", **GROUPED, **EXPERTS),
        language,
        r"model\.layers\.0\.(self_attn\.[qkvo]_proj\.weight|mlp\.experts\.(gate_up|down)_proj)",
        {r"model\.layers\.0\.mlp\.gate\.weight": "router"},
        HF,
    ),
    "Mamba": Architecture(
        hugging("MambaForCausalLM", "MambaConfig", **SPECIAL, hidden_size=16, num_hidden_layers=1, state_size=4),
        language,
        r"backbone\.layers\.0\.mixer\.(in|x|out)_proj\.weight",
        {r".*(A_log|\.D|conv1d\.weight|dt_proj\.weight)": "state space", r"backbone\.embeddings\.weight": "embedding"},
        HF,
    ),
    "Mamba 2": Architecture(
        hugging(
            "Mamba2ForCausalLM",
            "Mamba2Config",
            **SPECIAL,
            hidden_size=16,
            num_hidden_layers=1,
            state_size=4,
            num_heads=4,
            head_dim=8,
            n_groups=1,
            chunk_size=4,
        ),
        language,
        r"backbone\.layers\.0\.mixer\.(in|out)_proj\.weight",
        {r".*(A_log|\.D|conv1d\.weight|dt_bias)": "state space"},
        HF,
    ),
    "RWKV": Architecture(
        hugging("RwkvForCausalLM", "RwkvConfig", vocab_size=TOKENS, hidden_size=16, num_hidden_layers=2),
        language,
        r"rwkv\.blocks\.\d\.(attention|feed_forward)\.(key|value|receptance|output)\.weight",
        {r".*\.attention\.time_\w+": "state space", r"head\.weight": "output layer"},
        HF,
    ),
    "RecurrentGemma": Architecture(
        hugging(
            "RecurrentGemmaForCausalLM",
            "RecurrentGemmaConfig",
            **SPECIAL,
            **(BLOCKS | {"num_hidden_layers": 3}),
            attention_window_size=8,
        ),
        language,
        r"model\.layers\.\d\.(temporal_block\.(linear_(x|y|out)|[qkvo]_proj)|mlp_block\.\w+_proj)\.weight",
        {r".*rg_lru\.\w+|.*conv_1d\.\w+": "state space", r"model\.embed_tokens\.weight": "embedding"},
        HF,
    ),
    "Qwen3-Next": Architecture(
        hugging(
            "Qwen3NextForCausalLM",
            "Qwen3NextConfig",
            **(GROUPED | {"num_hidden_layers": 2}),
            **EXPERTS,
            shared_expert_intermediate_size=12,
            linear_num_value_heads=2,
            linear_num_key_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            layer_types=["linear_attention", "full_attention"],
        ),
        language,
        r"model\.layers\.\d\.(linear_attn\.(in_proj_qkvz|in_proj_ba|out_proj)\.weight|self_attn\.[qkvo]_proj\.weight"
        r"|mlp\.experts\.(gate_up|down)_proj|mlp\.shared_expert\.(gate|up|down)_proj\.weight)",
        {
            r".*linear_attn\.(dt_bias|A_log|conv1d\.weight)": "state space",
            r".*mlp\.(gate|shared_expert_gate)\.weight": "router",
        },
        HF,
    ),
    "Switch Transformer": Architecture(
        hugging(
            "SwitchTransformersForConditionalGeneration",
            "SwitchTransformersConfig",
            **(T5 | {"num_layers": 2, "num_decoder_layers": 2}),
            decoder_start_token_id=0,
            num_experts=2,
            num_sparse_encoder_layers=1,
            num_sparse_decoder_layers=1,
        ),
        language,
        r"(en|de)coder\.block\.\d\.layer\.\d\.(\w+\.[qkvo]|mlp\.(experts\.expert_\d\.)?w[io])\.weight",
        {r".*router\.classifier\.weight": "router", r"shared\.weight": "embedding"},
        HF,
    ),
    "DeBERTa": Architecture(
        hugging(
            "DebertaV2ForSequenceClassification",
            "DebertaV2Config",
            **SPECIAL,
            **BLOCKS,
            num_labels=CLASSES,
            relative_attention=True,
            pos_att_type=["c2p", "p2c"],
            max_relative_positions=8,
        ),
        sentences,
        r"(deberta\.encoder\.layer\.0\..*(_proj|dense)|pooler\.dense)\.weight",
        {r"classifier\.weight": "output layer", r"deberta\.encoder\.rel_embeddings\.weight": "embedding"},
        HF,
    ),
    "Perceiver": Architecture(
        hugging(
            "PerceiverForSequenceClassification",
            "PerceiverConfig",
            vocab_size=TOKENS,
            d_model=16,
            d_latents=16,
            num_latents=4,
            num_blocks=1,
            num_self_attends_per_block=1,
            num_self_attention_heads=2,
            num_cross_attention_heads=2,
            max_position_embeddings=16,
            num_labels=CLASSES,
        ),
        lambda: {"inputs": _ids(), "labels": _labels()},
        r"perceiver\..*(query|key|value|dense\d?)\.weight",
        {r"perceiver\.embeddings\.latents": "embedding", r"perceiver\.decoder\..*final_layer\.weight": "output layer"},
        HF,
    ),
    "Swin": Architecture(
        hugging(
            "SwinForImageClassification",
            "SwinConfig",
            image_size=16,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1],
            num_heads=[1, 2],
            window_size=2,
            num_labels=CLASSES,
        ),
        images,
        r"swin\..*(projection|[qkvo]_proj|fc[12]|reduction)\.weight",
        {r"classifier\.weight": "output layer", r".*relative_position_bias_table": "embedding"},
        HF,
    ),
    "SegFormer": Architecture(
        hugging(
            "SegformerForSemanticSegmentation",
            "SegformerConfig",
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[8, 16],
            patch_sizes=[3, 3],
            strides=[2, 2],
            num_attention_heads=[1, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=16,
            num_labels=CLASSES,
        ),
        lambda: {"pixel_values": _noise(4, 3, 16, 16), "labels": torch.arange(4 * 256).view(4, 16, 16) % CLASSES},
        r"(segformer\..*(proj|reduction|fc[12]|dwconv)|decode_head\.linear_\w+(\.\d\.proj)?)\.weight",
        {r"decode_head\.classifier\.weight": "output layer"},
        HF,
    ),
    "DETR": Architecture(
        detr,
        lambda: {"pixel_values": _noise(4, 3, 32, 32)},
        r"model\.(input_projection|(en|de)coder\.layers\.0\..*(_proj|fc[12]))\.weight|bbox_predictor\.layers\.[01]\.weight",
        {
            r"class_labels_classifier\.weight|bbox_predictor\.layers\.2\.weight": "output layer",
            r"model\.query_position_embeddings\.weight": "embedding",
        },
        HF,
    ),
    "LSTM": Architecture(
        lambda: Recurrent(nn.LSTM), _ids, r"rnn\.weight_[ih]h_l[01]", {r"head\.weight": "output layer"}
    ),
    "GRU": Architecture(lambda: Recurrent(nn.GRU), _ids, r"rnn\.weight_[ih]h_l[01]", {r"embed\.weight": "embedding"}),
    "U-Net": Architecture(
        UNet, lambda: _noise(4, 3, 8, 8), r"(down[12]\.0|up1\.0|up)\.weight", {r"out\.weight": "output layer"}
    ),
    "grouped convolutions": Architecture(
        Grouped,
        lambda: _noise(8, 3, 8, 8),
        r"(stem|grouped|depthwise|pointwise)\.weight",
        {r"fc\.weight": "output layer"},
    ),
    "transposed convolutions": Architecture(
        Decoder, lambda: _noise(8, 12), r"(fc|up)\.weight", {r"pixels\.weight": "output layer"}
    ),
    "nn.Transformer, bare positions": Architecture(
        Translator,
        lambda: (_ids(), _ids(8, 5)),
        r"net\.\w+\.layers\.\d\.(\w+_attn\.(in_proj_weight|out_proj\.weight)|linear[12]\.weight)",
        {r"pos": "bare parameter", r"generator\.weight": "output layer"},
    ),
    "nested sequences": Architecture(
        NestedEncoder, lengths, r"(body|inner)\.weight", {r"head\.weight": "output layer"}
    ),
    "sparse inputs": Architecture(SparseInput, words, r"weight|body\.weight", {r"head\.weight": "output layer"}),
    "graph, edges": Architecture(Graph, edges, r"(first|second)\.weight", {r"readout\.weight": "output layer"}),
    "graph, PyTorch Geometric": Architecture(
        geometric, edges, r"(first|second)\.lin\.weight", {r"readout\.weight": "output layer"}, "torch_geometric"
    ),
    "LoRA": Architecture(
        Adapted,
        lambda: _noise(16, 16),
        r"mix\.weight",
        {r".*lora_[AB]\.weight": "low-rank adapter", r"head\.weight": "output layer"},
        says="low-rank adapter",
    ),
}
