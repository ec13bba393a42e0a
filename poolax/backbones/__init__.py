"""Backbones: pytrees whose parameters are leaves and whose configuration is static."""

from poolax._records import TokenStates as TokenStates
from poolax.backbones._base import Backbone as Backbone
from poolax.backbones._base import ImagePreprocess as ImagePreprocess
from poolax.backbones._vit import ViT as ViT
from poolax.backbones._vit import ViTConfig as ViTConfig
