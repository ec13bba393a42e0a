"""Tasks: what heads predict, their losses and their metrics."""

from poolax.training.tasks._base import Baseline as Baseline
from poolax.training.tasks._base import Task as Task
from poolax.training.tasks._choice import task_for as task_for
from poolax.training.tasks._classification import Classification as Classification
from poolax.training.tasks._classification import NextToken as NextToken
from poolax.training.tasks._classification import PairClassification as PairClassification
from poolax.training.tasks._joined import joined_pair as joined_pair
from poolax.training.tasks._regression import Inpainting as Inpainting
from poolax.training.tasks._regression import Regression as Regression
from poolax.training.tasks._segmentation import Segmentation as Segmentation
from poolax.training.tasks._series import Forecasting as Forecasting
from poolax.training.tasks._series import Imputation as Imputation
from poolax.training.tasks._texts import SentenceCompletion as SentenceCompletion
from poolax.training.tasks._texts import SentenceSimilarity as SentenceSimilarity
