"""The claims, one a file; importing this package registers them in the order of the ledger."""

from theory.claims import (
    c1_residual_energy,
    c2_leak,
    c3_forgetting_bound,
    c3r_real_activations,
    c4_certificate,
    c5_convergence,
    c6_capacity,
    c7_merge,
    c8_frontier,
)

__all__ = [
    "c1_residual_energy",
    "c2_leak",
    "c3_forgetting_bound",
    "c3r_real_activations",
    "c4_certificate",
    "c5_convergence",
    "c6_capacity",
    "c7_merge",
    "c8_frontier",
]
