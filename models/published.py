"""The published parameter counts that the networks must have."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

PUBLISHED_PARAMETERS: Mapping[str, int] = MappingProxyType(
    {
        # `num_params` of the weights in torchvision's model tables.
        "resnet50": 25_557_032,
        "resnet152": 60_192_808,
        "vgg19": 143_667_240,
        "densenet201": 20_013_928,
        "mobilenet_v2": 3_504_872,
        "vit_b_16": 86_567_656,
        "retinanet": 34_014_999,
        # torchvision's 27,161,264 less the 3,326,696 of the auxiliary classifier, which inference
        # does not run.
        "inception_v3": 23_834_568,
        # `num_parameters()` of transformers' models without a task head.
        "bert_base": 109_482_240,
        "distilbert": 66_362_880,
        # `num_parameters()` of transformers' segformer-b0-finetuned-ade-512-512.
        "segformer_b0": 3_752_694,
    }
)
