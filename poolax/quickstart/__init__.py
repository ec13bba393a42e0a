"""The quickstart: the whole comparison on real data that come with Python's libraries.

Pretrain a small backbone without labels, freeze it, compare poolers on it, measure how noise moves
them, and set measured Lipschitz constants beside their bounds. Every stage leaves records behind; a
second run takes over what is finished.
"""

from poolax.quickstart._recipes import pretrain_moment as pretrain_moment
from poolax.quickstart._recipes import pretrain_vit as pretrain_vit
from poolax.quickstart._recipes import pretraining_schedule as pretraining_schedule
from poolax.quickstart._run import MODALITIES as MODALITIES
from poolax.quickstart._run import Report as Report
from poolax.quickstart._run import run as run
from poolax.quickstart._sensitivity import INPUTS as INPUTS
from poolax.quickstart._settings import POOLERS as POOLERS
from poolax.quickstart._settings import Settings as Settings
