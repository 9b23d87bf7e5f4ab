"""Energy flow polynomials: sums over constituents, one for each multigraph.

Komiske, Metodiev & Thaler 2018, eq. 4: EFP_G = sum_{i_1 ... i_n} z_{i_1} ... z_{i_n}
prod_{(k, l) in G} theta_{i_k i_l}, with z = pt_rel and theta = Delta R, the measure "hadr", beta =
1, not normed, as JetNet's metrics have it. phi is taken as it is, without 2 pi, as energyflow does.
"""

from functools import cache
from itertools import combinations_with_replacement, permutations

import numpy as np
import torch
from torch import Tensor

from ldm.system.progress import shown

Graph = tuple[tuple[int, int], ...]  # edges, repeated where they are double


@cache
def connected_graphs(edges: int) -> tuple[Graph, ...]:
    """All connected multigraphs of so many edges up to isomorphism: 1, 1, 2, 5, 12 of 0 ... 4."""
    if edges == 0:
        return ((),)
    found = set()
    for graph in connected_graphs(edges - 1):
        n = vertices(graph)
        pairs = [
            (a, b) for b in range(n + 1) for a in range(min(b, n))
        ]  # vertex n is a new one, hung on an old one
        found |= {_canonical((*graph, pair)) for pair in pairs}
    return tuple(sorted(found))


def vertices(graph: Graph) -> int:
    """Number of vertices; a graph without edges is one dot."""
    return max((max(edge) for edge in graph), default=0) + 1


def _canonical(graph: Graph) -> Graph:
    """The smallest relabelling: the same for isomorphic graphs."""
    orders = permutations(range(vertices(graph)))
    edges = ([(min(p[a], p[b]), max(p[a], p[b])) for a, b in graph] for p in orders)
    return min(tuple(sorted(each)) for each in edges)


def efp_of(graph: Graph, z: Tensor, powers: list[Tensor]) -> Tensor:
    """EFP of one connected graph, (N,): z (N, P), powers[k] = theta^k (N, P, P).

    Vertices are summed away one by one. One with a single neighbour leaves a weight there, one with
    two leaves an edge between them; with at most 4 edges there is always such a vertex.
    """
    edge = {pair: powers[graph.count(pair)] for pair in set(graph)}
    weight = [z] * vertices(graph)
    left = set(range(len(weight)))
    while len(left) > 1:
        v, (first, *second) = min(
            ((v, _neighbours(edge, v)) for v in left), key=lambda item: len(item[1])
        )
        left.remove(v)
        to_first = edge.pop((min(v, first), max(v, first)))  # theta is symmetric
        if not second:
            weight[first] = weight[first] * (to_first @ weight[v][..., None])[..., 0]
            continue
        to_second = edge.pop((min(v, second[0]), max(v, second[0])))
        pair = (min(first, second[0]), max(first, second[0]))
        new = to_first @ (weight[v][..., None] * to_second)
        new = new if first < second[0] else new.mT
        edge[pair] = edge[pair] * new if pair in edge else new
    return weight[left.pop()].sum(-1)


def _neighbours(edge: dict[tuple[int, int], Tensor], v: int) -> list[int]:
    return [a + b - v for a, b in edge if v in (a, b)]


@torch.no_grad()
def efps(
    features: Tensor,
    mask: Tensor,
    graphs: tuple[Graph, ...],
    chunk: int = 1000,
    what: str = "polynomials",
    quiet: bool = True,
) -> np.ndarray:
    """EFPs of jets: features (N, P, 3) = eta, phi, pt, mask (N, P) -> (N, len(graphs)), float64."""
    rows, parts = [], zip(features.split(chunk), mask.split(chunk), strict=True)
    for part, real in shown(parts, what, quiet, "batches", -(-len(mask) // chunk)):
        eta, phi, pt = part.double().unbind(-1)
        theta = torch.hypot(eta[:, :, None] - eta[:, None], phi[:, :, None] - phi[:, None])
        powers = [theta**k for k in range(5)]
        rows.append(torch.stack([efp_of(graph, pt * real, powers) for graph in graphs], -1))
    return torch.cat(rows).numpy()


# the 21 connected ones of at most 4 edges
GRAPHS = tuple(graph for edges in range(5) for graph in connected_graphs(edges))


def four_by_four() -> tuple[Graph, ...]:
    """The 5 connected graphs of 4 vertices and 4 edges: JetNet's for W1EFP (n = d = 4, p = 1)."""
    return tuple(graph for graph in connected_graphs(4) if vertices(graph) == 4)


def with_products(values: np.ndarray) -> np.ndarray:
    """EFPs of GRAPHS, (N, 21), and the products of them with at most 4 edges: (N, 36)."""
    degrees = [len(graph) for graph in GRAPHS]
    inner = [i for i, d in enumerate(degrees) if d]  # a product with the dot would only rescale
    products = [[i] for i in range(len(GRAPHS))]
    for size in (2, 3, 4):
        products += [
            list(c)
            for c in combinations_with_replacement(inner, size)
            if sum(degrees[i] for i in c) <= 4
        ]
    return np.stack([values[:, product].prod(1) for product in products], 1)
