"""Tables and figures, made from records alone."""

from poolax.reporting._figures import plot_noise_curves as plot_noise_curves
from poolax.reporting._figures import plot_scores as plot_scores
from poolax.reporting._figures import plot_sensitivity as plot_sensitivity
from poolax.reporting._scores import summarize_scores as summarize_scores
from poolax.reporting._table import Cell as Cell
from poolax.reporting._table import Table as Table
from poolax.reporting._tables import score_table as score_table
from poolax.reporting._tables import sensitivity_table as sensitivity_table
