"""Tables and figures, made from records alone."""

from poolax.reporting._advice import advice_table as advice_table
from poolax.reporting._advice import plot_advice as plot_advice
from poolax.reporting._claims.judging import judge_claims as judge_claims
from poolax.reporting._claims.statements import Claim as Claim
from poolax.reporting._claims.statements import Contrast as Contrast
from poolax.reporting._claims.tables import claims_tables as claims_tables
from poolax.reporting._figures import plot_noise_curves as plot_noise_curves
from poolax.reporting._figures import plot_scores as plot_scores
from poolax.reporting._figures import plot_sensitivity as plot_sensitivity
from poolax.reporting._overview import score_table as score_table
from poolax.reporting._paper.beside import Beside as Beside
from poolax.reporting._paper.beside import OwnValue as OwnValue
from poolax.reporting._paper.beside import beside_paper as beside_paper
from poolax.reporting._paper.cells import PaperCell as PaperCell
from poolax.reporting._paper.cells import paper_results as paper_results
from poolax.reporting._paper.tables import paper_counts as paper_counts
from poolax.reporting._paper.tables import paper_tables as paper_tables
from poolax.reporting._pretraining import plot_pretraining as plot_pretraining
from poolax.reporting._pretraining import plot_training_lipschitz as plot_training_lipschitz
from poolax.reporting._score_tables import joined as joined
from poolax.reporting._score_tables import notes_once as notes_once
from poolax.reporting._score_tables import score_tables as score_tables
from poolax.reporting._scores import summarize_scores as summarize_scores
from poolax.reporting._table import Cell as Cell
from poolax.reporting._table import Table as Table
from poolax.reporting._tables import sensitivity_table as sensitivity_table
