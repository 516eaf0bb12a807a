"""Bottom branch of BlendMask (arXiv:2001.00309, section 3.2): maps shared by all instances."""

from detectron2.utils.registry import Registry
from torch import nn
from torch.nn import functional as F

from ..errors import ConfigError
from .layers import conv_norm_relu, resize_to

BASIS_MODULE_REGISTRY = Registry("BASIS_MODULE")
BASIS_MODULE_REGISTRY.__doc__ = """
Modules that compute bases, called as ``entry(cfg, input_shape)``. ``MODEL.BASIS_MODULE.NAME``
selects one.
"""


def build_basis_module(cfg, input_shape):
    """Build the module that ``MODEL.BASIS_MODULE.NAME`` selects.

    Args:
        cfg (CfgNode): a config with the keys of ``add_blendmask_config``.
        input_shape (dict[str, ShapeSpec]): of the backbone's feature maps.

    Returns:
        nn.Module: called with features and, in training, semantic labels.
    """
    return BASIS_MODULE_REGISTRY.get(cfg.MODEL.BASIS_MODULE.NAME)(cfg, input_shape)


@BASIS_MODULE_REGISTRY.register()
class ProtoNet(nn.Module):
    """Convs over the summed pyramid levels, like YOLACT's protonet (arXiv:1904.02689).

    With ``LOSS_ON``, a second head on the finest level predicts the semantic segmentation of the
    things. It only adds a training loss; inference runs it only under ``VISUALIZE``.

    Args:
        cfg (CfgNode): a config with the keys of ``add_blendmask_config``.
        input_shape (dict[str, ShapeSpec]): of the backbone's feature maps.
    """

    def __init__(self, cfg, input_shape):
        super().__init__()
        basis = cfg.MODEL.BASIS_MODULE
        width = basis.CONVS_DIM
        self.in_features = basis.IN_FEATURES
        self.loss_on = basis.LOSS_ON
        self.visualize = cfg.MODEL.BLENDMASK.VISUALIZE

        in_channels = [input_shape[name].channels for name in self.in_features]
        self.refine = nn.ModuleList(conv_norm_relu(c, width, basis.NORM) for c in in_channels)
        self.tower = nn.Sequential(
            *(conv_norm_relu(width, width, basis.NORM) for _ in range(basis.NUM_CONVS)),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            conv_norm_relu(width, width, basis.NORM),
            nn.Conv2d(width, basis.NUM_BASES, 1),
        )

        # Set without the head, too: a module restored from a file may bring the head.
        self.common_stride = basis.COMMON_STRIDE
        self.sem_loss_weight = basis.LOSS_WEIGHT
        if self.loss_on:
            self.seg_head = nn.Sequential(
                *_conv_bn_relu(in_channels[0], width),
                *_conv_bn_relu(width, width),
                nn.Conv2d(width, basis.NUM_CLASSES + 1, 1),
            )

    def forward(self, features, targets=None):
        """Compute the bases.

        Args:
            features (dict[str, Tensor]): feature maps, each (N, C, H, W).
            targets (Tensor or None): class index + 1 per pixel, 0 for background, (N, H, W).

        Returns:
            tuple[dict, dict]: ``{"bases": [Tensor]}``, (N, NUM_BASES, H, W) at twice the finest
            level's resolution (with ``VISUALIZE`` also ``"seg_thing_out"``), and the losses.

        Raises:
            ConfigError: ``LOSS_ON`` is True in training, but there are no targets.
        """
        maps = [features[name] for name in self.in_features]
        total = self.refine[0](maps[0])
        for refine, x in zip(self.refine[1:], maps[1:], strict=True):
            total = total + resize_to(refine(x), total.shape[2:])
        outputs = {"bases": [self.tower(total)]}

        losses = {}
        if self.training and self.loss_on:
            losses["loss_basis_sem"] = self.sem_loss_weight * self._sem_loss(maps[0], targets)
        elif self.visualize and hasattr(self, "seg_head"):
            outputs["seg_thing_out"] = self.seg_head(maps[0])
        return outputs, losses

    def _sem_loss(self, finest, targets):
        if targets is None:
            raise ConfigError(
                "MODEL.BASIS_MODULE.LOSS_ON needs 'basis_sem' in every training input: load the "
                "data with blendprune.data.mapper.DatasetMapperWithBasis, or set the key to False."
            )
        stride = self.common_stride
        return F.cross_entropy(self.seg_head(finest), targets[:, ::stride, ::stride].long())


def _conv_bn_relu(in_channels, out_channels):
    return (
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )
