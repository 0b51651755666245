"""Choosing fabrics without data.

In the order in which a plan is made: `candidates` lists what competes for a layer, `gates` and
`criterion` (by default the `rating`) rank it, `choose` picks within a budget and names the rivals.
For a model, a `ladder` of choices per kind of layer goes through `allocate`, and `assign` gives
every layer its fabric. `width`, `haar` (with `digits`, `flow`, `trace`) are fast forms of what the
rating needs; `score` has every score in full. `latency` (with `terms`) predicts seconds.
"""
