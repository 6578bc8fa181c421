"""Layers, functions and methods that a stored network may use, by name.

This is the security border: names in a description are looked up here and nowhere else, so that
it can name nothing but arithmetic on tensors. Nothing here reads or writes files, imports,
evaluates text, calls back or gives access to raw memory.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_MODULES = """
    Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d Linear Bilinear Embedding
    BatchNorm1d BatchNorm2d BatchNorm3d InstanceNorm1d InstanceNorm2d InstanceNorm3d
    LayerNorm GroupNorm RMSNorm LocalResponseNorm
    ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish GLU Sigmoid LogSigmoid Tanh
    Softplus Softsign Softshrink Hardshrink Tanhshrink Threshold Hardtanh Hardsigmoid Hardswish
    Softmax Softmax2d LogSoftmax Softmin
    MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d AvgPool3d LPPool1d LPPool2d
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d
    AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d
    MaxUnpool1d MaxUnpool2d MaxUnpool3d
    Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout
    Identity Flatten Unflatten Fold Unfold CosineSimilarity
    Upsample UpsamplingNearest2d UpsamplingBilinear2d PixelShuffle PixelUnshuffle ChannelShuffle
    ZeroPad1d ZeroPad2d ZeroPad3d ConstantPad1d ConstantPad2d ConstantPad3d
    ReflectionPad1d ReflectionPad2d ReflectionPad3d
    ReplicationPad1d ReplicationPad2d ReplicationPad3d CircularPad1d CircularPad2d CircularPad3d
"""

_OPERATOR = """
    add sub mul truediv floordiv mod pow neg pos abs matmul getitem eq ne lt le gt ge
    and_ or_ xor invert not_ iadd isub imul itruediv ipow
"""

_MATH = "ceil floor sqrt log log2 exp"

_TORCH = """
    abs absolute add sub subtract mul multiply div divide true_divide floor_divide remainder neg
    negative pow square sqrt rsqrt exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan
    atan2 sinh cosh tanh sigmoid erf reciprocal sign floor ceil round trunc clamp clip clamp_min
    clamp_max clamp_ maximum minimum max min amax amin argmax argmin sum mean std var var_mean prod
    median cumsum cumprod logsumexp norm softmax log_softmax relu relu_ prelu selu celu rrelu
    dropout cat concat concatenate stack hstack vstack dstack chunk split tensor_split unbind
    flatten unflatten reshape ravel squeeze unsqueeze transpose swapaxes swapdims t permute movedim
    moveaxis flip roll rot90 tile repeat_interleave broadcast_to narrow select index_select gather
    take_along_dim masked_fill where tril triu sort topk matmul mm bmm mv dot einsum tensordot
    addmm baddbmm outer inner kron lerp addcmul addcdiv bilinear conv1d conv2d conv3d
    conv_transpose1d conv_transpose2d conv_transpose3d batch_norm layer_norm group_norm
    instance_norm rms_norm avg_pool1d max_pool1d max_pool2d max_pool3d adaptive_avg_pool1d
    adaptive_max_pool1d pixel_shuffle pixel_unshuffle channel_shuffle embedding
    zeros ones full arange linspace zeros_like ones_like full_like rand randn rand_like randn_like
    bernoulli meshgrid eq ne lt le gt ge isnan isfinite logical_and logical_or logical_not any all
    cdist cosine_similarity pairwise_distance _assert
"""

_FUNCTIONAL = """
    relu relu_ relu6 leaky_relu leaky_relu_ prelu rrelu elu elu_ selu celu gelu silu mish glu
    sigmoid logsigmoid tanh softplus softsign softshrink hardshrink tanhshrink threshold hardtanh
    hardsigmoid hardswish softmax softmin log_softmax normalize linear bilinear embedding
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    batch_norm layer_norm group_norm instance_norm rms_norm local_response_norm
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d lp_pool1d lp_pool2d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
    max_unpool1d max_unpool2d max_unpool3d
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout
    pad interpolate upsample pixel_shuffle pixel_unshuffle channel_shuffle fold unfold
    grid_sample affine_grid one_hot cosine_similarity pairwise_distance
    scaled_dot_product_attention
"""

_METHODS = """
    abs add add_ sub sub_ mul mul_ div div_ neg pow square sqrt rsqrt exp log log1p sin cos tanh
    tanh_ sigmoid sigmoid_ relu relu_ erf reciprocal sign floor ceil round clamp clamp_ clamp_min
    clamp_max clip maximum minimum max min amax amin argmax argmin sum mean std var prod median
    cumsum logsumexp norm softmax log_softmax chunk split tensor_split unbind flatten unflatten
    reshape reshape_as view view_as ravel squeeze squeeze_ unsqueeze unsqueeze_ transpose
    transpose_ swapaxes swapdims t permute movedim moveaxis flip roll rot90 tile repeat
    repeat_interleave expand expand_as broadcast_to narrow select index_select gather take_along_dim
    masked_fill masked_fill_ where tril triu sort topk matmul mm bmm mv dot addmm baddbmm outer
    inner lerp addcmul addcdiv contiguous clone detach to type type_as float double half bfloat16
    int long bool size dim ndimension numel stride eq ne lt le gt ge logical_and logical_or
    logical_not any all unfold diff zero_ fill_ copy_ new_zeros new_ones new_full
"""

_ATTRIBUTES = "shape ndim dtype device T mT"


def _named(namespace: ModuleType | type, prefix: str, names: str) -> dict[str, Callable[..., Any]]:
    """``{prefix.name: function}``, without names that this version of torch lacks."""
    return {
        f"{prefix}.{name}": getattr(namespace, name)
        for name in names.split()
        if hasattr(namespace, name)
    }


MODULES: dict[str, type[nn.Module]] = {
    name: getattr(nn, name) for name in _MODULES.split() if hasattr(nn, name)
}
"""Layers by the name of their class in ``torch.nn``."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **_named(operator, "operator", _OPERATOR),
    **_named(math, "math", _MATH),
    **_named(torch, "torch", _TORCH),
    **_named(functional, "torch.nn.functional", _FUNCTIONAL),
    **_named(Tensor, "Tensor", _METHODS),
    **{f"Tensor.{name}": operator.attrgetter(name) for name in _ATTRIBUTES.split()},
}
"""Functions by name. ``Tensor.NAME`` takes the tensor first and is a method, or an attribute."""

MODULE_NAMES = {kind: name for name, kind in MODULES.items()}
FUNCTION_NAMES = {function: name for name, function in reversed(FUNCTIONS.items())}
