"""Jets as four-vectors: massless constituents (eta, phi, pt) relative to the jet, added up."""

import torch
from torch import Tensor


def jet_kinematics(features: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """pt, eta, phi and mass of the sum of massless four-vectors, each (N,) in float64.

    p = pt (cosh eta, cos phi, sin phi, sinh eta) summed over the real constituents;
    m^2 = E^2 - |p|^2, a rounding error below 0 being a mass of 0. features (N, P, 3) = (eta_rel,
    phi_rel, pt_rel): pt and mass then are in units of the jet's own pt, eta and phi are relative to
    its axis. mask (N, P) bool.
    """
    eta, phi, pt = features.double().unbind(-1)
    pt = pt * mask
    e, x, y, z = (
        part.sum(-1) for part in (pt * eta.cosh(), pt * phi.cos(), pt * phi.sin(), pt * eta.sinh())
    )
    transverse = torch.hypot(x, y)
    mass = (e.square() - x.square() - y.square() - z.square()).clamp(min=0).sqrt()
    return {
        "pt": transverse,
        "eta": torch.asinh(z / transverse.clamp(min=1e-30)),
        "phi": torch.atan2(y, x),
        "mass": mass,
    }
