"""Backbones: pytrees whose parameters are leaves and whose configuration is static."""

from poolax.backbones._base import Backbone as Backbone
from poolax.backbones._bert import Bert as Bert
from poolax.backbones._bert import BertConfig as BertConfig
from poolax.backbones._decoder import Decoder as Decoder
from poolax.backbones._decoder import DecoderConfig as DecoderConfig
from poolax.backbones._gpt2 import GPT2 as GPT2
from poolax.backbones._gpt2 import GPT2Config as GPT2Config
from poolax.backbones._images import ImagePreprocess as ImagePreprocess
from poolax.backbones._lipsformer import LipsFormer as LipsFormer
from poolax.backbones._lipsformer import LipsFormerConfig as LipsFormerConfig
from poolax.backbones._moment import Moment as Moment
from poolax.backbones._moment import MomentConfig as MomentConfig
from poolax.backbones._preprocess import Preprocess as Preprocess
from poolax.backbones._series import SeriesPreprocess as SeriesPreprocess
from poolax.backbones._sharding import tensor_parallel as tensor_parallel
from poolax.backbones._swin import Swin as Swin
from poolax.backbones._swin import SwinConfig as SwinConfig
from poolax.backbones._tokens import TextPreprocess as TextPreprocess
from poolax.backbones._vit import ViT as ViT
from poolax.backbones._vit import ViTConfig as ViTConfig
from poolax.backbones.pretrained._load import from_state_dict as from_state_dict
from poolax.backbones.pretrained._load import load as load
from poolax.backbones.pretrained._save import is_saved_backbone as is_saved_backbone
from poolax.backbones.pretrained._save import save as save
from poolax.records import TokenStates as TokenStates
