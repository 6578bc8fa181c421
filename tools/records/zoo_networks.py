"""Networks that people have, small: each a function that gives a model and a few batches.

Of torchvision, timm and transformers by their own builders, with random weights; the rest is
written here as users write it.
"""

# ruff: noqa: D101, D103 - their names say what they are

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as users write it
from torch import Tensor, nn

Case = tuple[nn.Module, list[Any]]
SAMPLES, AT_ONCE = 48, 16
WORDS = 99


def images(size: int = 64, channels: int = 3) -> list[Tensor]:
    """Calibration images of noise that neighbours share."""
    coarse = torch.randn(SAMPLES, channels, size // 4, size // 4)
    x = F.interpolate(coarse, size=size, mode="bilinear") + 0.3 * torch.randn(
        SAMPLES, channels, size, size
    )
    return list(x.split(AT_ONCE))


def tokens(length: int = 24, **more: Tensor) -> list[dict[str, Tensor]]:
    """Token ids with the attention mask of texts of different lengths."""
    ids = torch.randint(5, WORDS, (SAMPLES, length))
    mask = (torch.arange(length) < torch.randint(length // 2, length + 1, (SAMPLES, 1))).long()
    batch = {"input_ids": ids, "attention_mask": mask, **more}
    parts = {name: tensor.split(AT_ONCE) for name, tensor in batch.items()}
    return [dict(zip(parts, rows, strict=True)) for rows in zip(*parts.values(), strict=True)]


def torchvision_images(name: str, size: int = 64, **options: Any) -> Callable[[], Case]:
    def make() -> Case:
        import torchvision

        return torchvision.models.get_model(name, weights=None, **options), images(size)

    return make


def timm_images(name: str, size: int = 64, **options: Any) -> Callable[[], Case]:
    def make() -> Case:
        import timm

        return timm.create_model(name, num_classes=10, **options), images(size)

    return make


def hf(
    kind: str, config: str, batches: Callable[[], list[Any]], **options: Any
) -> Callable[[], Case]:
    def make() -> Case:
        import transformers

        made = getattr(transformers, config)(**options)
        return getattr(transformers, kind)(made), batches()

    return make


def vision_transformer() -> Case:
    import torchvision

    model = torchvision.models.VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10)
    return model, images(32)


def swin() -> Case:
    import torchvision

    model = torchvision.models.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4], num_classes=10)
    return model, images(32)


def densenet() -> Case:
    import torchvision

    return torchvision.models.DenseNet(12, (3, 6, 4, 3), 24, num_classes=10), images()


def fcn() -> Case:
    import torchvision
    from torchvision.models._utils import IntermediateLayerGetter

    body = torchvision.models.resnet18(weights=None)
    backbone = IntermediateLayerGetter(body, {"layer4": "out"})
    head = torchvision.models.segmentation.fcn.FCNHead(512, 21)
    return torchvision.models.segmentation.FCN(backbone, head), images()


def retinanet() -> Case:
    import torchvision

    body = torchvision.models.detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None
    )
    model = torchvision.models.detection.RetinaNet(body, 5, min_size=64, max_size=64)
    return model, [list(part) for part in images()]


class ConvNormAct(nn.Module):
    """YOLO's Conv."""

    def __init__(self, inputs: int, outputs: int, k: int = 1, s: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, k, s, k // 2, bias=False)
        self.bn, self.act = nn.BatchNorm2d(outputs), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class YoloBottleneck(nn.Module):
    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvNormAct(width, width, 3), ConvNormAct(width, width, 3)
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """Cross-stage block of YOLOv8."""

    def __init__(self, inputs: int, outputs: int, n: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        self.c = outputs // 2
        self.cv1 = ConvNormAct(inputs, 2 * self.c)
        self.cv2 = ConvNormAct((2 + n) * self.c, outputs)
        self.m = nn.ModuleList(YoloBottleneck(self.c, shortcut) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    """Pooling pyramid of YOLOv8."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = ConvNormAct(inputs, inputs // 2), ConvNormAct(inputs * 2, outputs)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Detector(nn.Module):
    """YOLOv8 with two scales: backbone, path aggregation, box and class heads."""

    def __init__(self, w: int = 16, classes: int = 4, bins: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNormAct(3, w, 3, 2), ConvNormAct(w, 2 * w, 3, 2))
        self.c1 = C2f(2 * w, 2 * w, 1, shortcut=True)
        self.down1, self.c2 = ConvNormAct(2 * w, 4 * w, 3, 2), C2f(4 * w, 4 * w, 2, shortcut=True)
        self.down2, self.c3 = ConvNormAct(4 * w, 8 * w, 3, 2), C2f(8 * w, 8 * w, 1, shortcut=True)
        self.sppf = SPPF(8 * w, 8 * w)
        self.up, self.c4 = nn.Upsample(scale_factor=2), C2f(12 * w, 4 * w)
        self.down3, self.c5 = ConvNormAct(4 * w, 4 * w, 3, 2), C2f(12 * w, 8 * w)
        self.boxes = nn.ModuleList(self.head(c, 4 * bins) for c in (4 * w, 8 * w))
        self.scores = nn.ModuleList(self.head(c, classes) for c in (4 * w, 8 * w))

    @staticmethod
    def head(inputs: int, outputs: int) -> nn.Sequential:
        width = max(32, outputs)
        inner = ConvNormAct(inputs, width, 3), ConvNormAct(width, width, 3)
        return nn.Sequential(*inner, nn.Conv2d(width, outputs, 1))

    def forward(self, x: Tensor) -> list[Tensor]:
        p2 = self.c2(self.down1(self.c1(self.stem(x))))
        p3 = self.sppf(self.c3(self.down2(p2)))
        p2 = self.c4(torch.cat([self.up(p3), p2], 1))
        p3 = self.c5(torch.cat([self.down3(p2), p3], 1))
        pairs = zip((p2, p3), self.boxes, self.scores, strict=True)
        return [torch.cat([box(p), score(p)], 1) for p, box, score in pairs]


class UNet(nn.Module):
    """With transposed convolutions on the way up."""

    def __init__(self, w: int = 16) -> None:
        super().__init__()
        self.a, self.b, self.c = self.two(3, w), self.two(w, 2 * w), self.two(2 * w, 4 * w)
        self.up1, self.up2 = (
            nn.ConvTranspose2d(4 * w, 2 * w, 2, 2),
            nn.ConvTranspose2d(2 * w, w, 2, 2),
        )
        self.d, self.e = self.two(4 * w, 2 * w), self.two(2 * w, w)
        self.out = nn.Conv2d(w, 2, 1)

    @staticmethod
    def two(inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for c in (inputs, outputs):
            layers += [nn.Conv2d(c, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(F.max_pool2d(a, 2))
        c = self.c(F.max_pool2d(b, 2))
        x = self.d(torch.cat([b, self.up1(c)], 1))
        return self.out(self.e(torch.cat([a, self.up2(x)], 1)))


def generator(w: int = 16) -> nn.Sequential:
    """DCGAN's."""
    layers: list[nn.Module] = [nn.ConvTranspose2d(32, 4 * w, 4), nn.BatchNorm2d(4 * w), nn.ReLU()]
    for a, b in ((4 * w, 2 * w), (2 * w, w)):
        layers += [nn.ConvTranspose2d(a, b, 4, 2, 1), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(w, 3, 4, 2, 1), nn.Tanh())


def audio(w: int = 16) -> nn.Sequential:
    """M5: raw waves, convolutions along one axis."""
    layers: list[nn.Module] = [
        nn.Conv1d(1, w, 80, 4),
        nn.BatchNorm1d(w),
        nn.ReLU(),
        nn.MaxPool1d(4),
    ]
    for a, b in ((w, w), (w, 2 * w), (2 * w, 4 * w)):
        layers += [nn.Conv1d(a, b, 3), nn.BatchNorm1d(b), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4 * w, 10))


def voxels(w: int = 8) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((1, w), (w, 2 * w), (2 * w, 4 * w)):
        layers += [nn.Conv3d(a, b, 3, padding=1), nn.BatchNorm3d(b), nn.ReLU(), nn.MaxPool3d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * w, 32), nn.ReLU(), nn.Linear(32, 4))


class Recurrent(nn.Module):
    """Convolutions, a GRU and a head of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(8, 48, 5, padding=2), nn.Conv1d(48, 32, 5, padding=2)
        self.gru = nn.GRU(32, 24, batch_first=True)
        self.head = nn.Sequential(nn.Linear(24, 96), nn.ReLU(), nn.Linear(96, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x, _ = self.gru(x.transpose(1, 2))
        return self.head(x[:, -1])


class Tagger(nn.Module):
    """Embedding, LSTM in both directions, a head for each word."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 32)
        self.enter = nn.Sequential(nn.Linear(32, 128), nn.ReLU(), nn.Linear(128, 32))
        self.lstm = nn.LSTM(32, 16, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 9))

    def forward(self, input_ids: Tensor) -> Tensor:
        found, _ = self.lstm(self.enter(self.embedding(input_ids)))
        return self.head(found)


class TwoInputs(nn.Module):
    """An image and a table row."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            *(nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24), nn.ReLU()),
            *(nn.Conv2d(24, 48, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.table = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.head = nn.Sequential(nn.Linear(80, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(image), self.table(table)], 1))


class Recommender(nn.Module):
    """Users, items and numbers in a dictionary; gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(50, 16), nn.Embedding(80, 16)
        self.deep = nn.Sequential(
            nn.Linear(36, 128), nn.ReLU(), nn.LayerNorm(128), nn.Linear(128, 64), nn.ReLU()
        )
        self.score, self.stars = nn.Linear(64, 1), nn.Linear(64, 5)

    def forward(self, user: Tensor, item: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        x = self.deep(torch.cat([self.user(user), self.item(item), numbers], 1))
        return {"score": self.score(x).squeeze(1), "stars": self.stars(x)}


class Gated(nn.Module):
    """Token mixing by GLU blocks whose two halves come from one layer."""

    def __init__(self, w: int = 32) -> None:
        super().__init__()
        self.enter = nn.Linear(12, w)
        self.norms = nn.ModuleList(nn.LayerNorm(w) for _ in range(2))
        self.ups = nn.ModuleList(nn.Linear(w, 8 * w) for _ in range(2))
        self.downs = nn.ModuleList(nn.Linear(4 * w, w) for _ in range(2))
        self.head = nn.Linear(w, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x = x + down(F.glu(up(norm(x)), -1))
        return self.head(x.mean(1))


def group_norm_cnn(w: int = 32) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in ((3, w), (w, 2 * w), (2 * w, 2 * w)):
        layers += [nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * w, 10))


class Branching(nn.Module):
    """Takes one of two ways by what it sees, and reads numbers out of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 16, 3), nn.ReLU())
        self.other = nn.Conv2d(3, 16, 5)
        self.head = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().max().item()
        x = self.one(x) if scale < 100 else self.other(x)
        return self.head(x.mean((2, 3)))


class Seq2Seq(nn.Module):
    """Torch's own transformer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 128, batch_first=True)
        self.embedding, self.encoder = nn.Embedding(WORDS, 32), nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(32, 7)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(input_ids)).mean(1))


def ids(length: int = 20) -> list[dict[str, Tensor]]:
    """Token ids alone."""
    return [{"input_ids": batch["input_ids"]} for batch in tokens(length)]


def spectrograms() -> list[dict[str, Tensor]]:
    decoded = torch.randint(5, WORDS, (SAMPLES, 8))
    x = torch.randn(SAMPLES, 16, 40)
    pairs = zip(x.split(AT_ONCE), decoded.split(AT_ONCE), strict=True)
    return [{"input_features": a, "decoder_input_ids": b} for a, b in pairs]


def text_pairs() -> list[dict[str, Tensor]]:
    return tokens(16, decoder_input_ids=torch.randint(5, WORDS, (SAMPLES, 10)))


def pixels(size: int = 32) -> list[dict[str, Tensor]]:
    return [{"pixel_values": part} for part in images(size)]


def rows(*shape: int) -> list[Tensor]:
    return list(torch.randn(SAMPLES, *shape).split(AT_ONCE))


def two_inputs() -> Case:
    return TwoInputs(), list(zip(images(32), rows(10), strict=True))


def recommender() -> Case:
    batches = [
        {
            "user": torch.randint(50, (AT_ONCE,)),
            "item": torch.randint(80, (AT_ONCE,)),
            "numbers": torch.randn(AT_ONCE, 4),
        }
        for _ in range(8)
    ]
    return Recommender(), batches


BERT = {
    "vocab_size": WORDS,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
}
LLAMA = BERT | {"num_key_value_heads": 2}
VIT = {key: BERT[key] for key in list(BERT)[1:5]} | {"image_size": 32, "patch_size": 8}

ZOO: dict[str, Callable[[], Case]] = {
    "torchvision resnet18": torchvision_images("resnet18", 128),
    "torchvision resnet50": torchvision_images("resnet50", width_per_group=16),
    "torchvision resnext50_32x4d": torchvision_images("resnext50_32x4d"),
    "torchvision regnet_x_400mf": torchvision_images("regnet_x_400mf"),
    "torchvision regnet_y_400mf": torchvision_images("regnet_y_400mf"),
    "torchvision mobilenet_v2": torchvision_images("mobilenet_v2", width_mult=0.5),
    "torchvision mobilenet_v3_small": torchvision_images("mobilenet_v3_small"),
    "torchvision mnasnet0_5": torchvision_images("mnasnet0_5"),
    "torchvision efficientnet_b0": torchvision_images("efficientnet_b0", 32),
    "torchvision shufflenet_v2_x0_5": torchvision_images("shufflenet_v2_x0_5"),
    "torchvision squeezenet1_1": torchvision_images("squeezenet1_1"),
    "torchvision DenseNet": densenet,
    "torchvision googlenet": torchvision_images("googlenet", init_weights=False, aux_logits=False),
    "torchvision VisionTransformer": vision_transformer,
    "torchvision SwinTransformer": swin,
    "torchvision fcn, resnet18": fcn,
    "torchvision lraspp_mobilenet_v3_large": torchvision_images(
        "lraspp_mobilenet_v3_large", weights_backbone=None
    ),
    "torchvision retinanet, resnet18": retinanet,
    "timm resnet26d": timm_images("resnet26d", channels=[16, 32, 64, 128]),
    "timm efficientnet_lite0": timm_images("efficientnet_lite0", 32),
    "timm mobilenetv3_small_050": timm_images("mobilenetv3_small_050"),
    "timm mobilenetv4_conv_small_050": timm_images("mobilenetv4_conv_small_050"),
    "timm tf_efficientnet_lite0 (same padding)": timm_images("tf_efficientnet_lite0", 32),
    "timm repvgg_a0": timm_images("repvgg_a0", 32),
    "timm ghostnet_050": timm_images("ghostnet_050"),
    "timm regnety_002": timm_images("regnety_002"),
    "timm convnext_atto": timm_images("convnext_atto", depths=[2, 2, 2, 2]),
    "timm convnextv2_atto": timm_images("convnextv2_atto", depths=[2, 2, 2, 2]),
    "timm vit_tiny_patch16_224": timm_images("vit_tiny_patch16_224", 64, img_size=64, depth=2),
    "timm deit_tiny_patch16_224": timm_images("deit_tiny_patch16_224", 64, img_size=64, depth=2),
    "timm mixer": timm_images("mixer_s32_224", 64, img_size=64),
    "timm swin": timm_images(
        "swin_tiny_patch4_window7_224",
        64,
        img_size=64,
        depths=[1, 1],
        num_heads=[2, 4],
        embed_dim=32,
        window_size=4,
    ),
    "timm poolformer_s12": timm_images("poolformer_s12"),
    "timm mobilevit_xxs": timm_images("mobilevit_xxs"),
    "transformers Bert": hf("BertModel", "BertConfig", tokens, **BERT),
    "transformers BertForSequenceClassification": hf(
        "BertForSequenceClassification", "BertConfig", tokens, **BERT
    ),
    "transformers DistilBert": hf(
        "DistilBertModel",
        "DistilBertConfig",
        tokens,
        vocab_size=WORDS,
        dim=48,
        n_layers=2,
        n_heads=4,
        hidden_dim=128,
    ),
    "transformers Electra": hf("ElectraModel", "ElectraConfig", tokens, embedding_size=48, **BERT),
    "transformers GPT2": hf(
        "GPT2LMHeadModel",
        "GPT2Config",
        tokens,
        vocab_size=WORDS,
        n_embd=48,
        n_layer=2,
        n_head=4,
        n_positions=64,
    ),
    "transformers Llama": hf("LlamaForCausalLM", "LlamaConfig", tokens, **LLAMA),
    "transformers Qwen2": hf("Qwen2ForCausalLM", "Qwen2Config", tokens, **LLAMA),
    "transformers OPT": hf(
        "OPTForCausalLM",
        "OPTConfig",
        tokens,
        vocab_size=WORDS,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=128,
        word_embed_proj_dim=48,
        max_position_embeddings=64,
    ),
    "transformers GPTNeoX": hf("GPTNeoXForCausalLM", "GPTNeoXConfig", tokens, **BERT),
    "transformers T5": hf(
        "T5ForConditionalGeneration",
        "T5Config",
        text_pairs,
        vocab_size=WORDS,
        d_model=48,
        d_kv=12,
        d_ff=128,
        num_layers=2,
        num_heads=4,
    ),
    "transformers Bart": hf(
        "BartModel",
        "BartConfig",
        text_pairs,
        vocab_size=WORDS,
        d_model=48,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=64,
    ),
    "transformers Whisper": hf(
        "WhisperModel",
        "WhisperConfig",
        spectrograms,
        vocab_size=WORDS,
        num_mel_bins=16,
        d_model=48,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=20,
        max_target_positions=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    ),
    "transformers ViT": hf("ViTForImageClassification", "ViTConfig", pixels, **VIT),
    "transformers Segformer": hf(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        lambda: pixels(64),
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 48, 64],
        decoder_hidden_size=64,
    ),
    "YOLO-like detector (C2f, SPPF)": lambda: (Detector(), images()),
    "U-Net, transposed": lambda: (UNet(), images(32)),
    "DCGAN generator": lambda: (generator(), rows(32, 1, 1)),
    "audio, Conv1d": lambda: (audio(), rows(1, 2000)),
    "voxels, Conv3d": lambda: (voxels(), rows(1, 16, 16, 16)),
    "GRU and head": lambda: (Recurrent(), rows(8, 30)),
    "LSTM tagger": lambda: (Tagger(), ids()),
    "two inputs": two_inputs,
    "dict batches": recommender,
    "GLU blocks": lambda: (Gated(), rows(6, 12)),
    "GroupNorm CNN": lambda: (group_norm_cnn(), images(32)),
    "data-dependent flow": lambda: (Branching(), images(32)),
    "nn.TransformerEncoder": lambda: (Seq2Seq(), ids()),
}
