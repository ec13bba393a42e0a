"""Measured Lipschitz constants and expressivity of any function of one array, and attacks on it.

Matrix products to which a function gives no precision of their own run at the highest one while it
and its Jacobian are measured: those of TPUs and of TF32 round to a few digits. What docstrings cite as
"Theory, section 10.2" is printed by ``poolax docs theory 10.2``.
"""

from poolax.empirical._attacks import fgsm as fgsm
from poolax.empirical._attacks import pgd as pgd
from poolax.empirical._expressivity import expressivity as expressivity
from poolax.empirical._expressivity import noise_curve as noise_curve
from poolax.empirical._jacobian import jacobian_norm as jacobian_norm
from poolax.empirical._power_iteration import power_iteration as power_iteration
from poolax.empirical._projections import project_to_ball as project_to_ball
from poolax.empirical._projections import project_to_box as project_to_box
from poolax.empirical._projections import project_to_cube as project_to_cube
from poolax.empirical._projections import project_to_domain as project_to_domain
from poolax.empirical._projections import project_to_frobenius_ball as project_to_frobenius_ball
from poolax.empirical._search import maximize_jacobian_norm as maximize_jacobian_norm
from poolax.records import AttackResult as AttackResult
from poolax.records import ExpressivityEstimate as ExpressivityEstimate
from poolax.records import NoiseCurve as NoiseCurve
from poolax.records import NormEstimate as NormEstimate
from poolax.records import SearchResult as SearchResult
