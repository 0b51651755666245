"""Does it learn? Trainings of dense models, their fabrics and their rivals at equal size."""

BENCHMARKS = {
    "digits": "benchmarks.digits",
    "operators": "benchmarks.operators",
    "denoiser": "benchmarks.denoiser",
    "byte_lm": "benchmarks.byte_lm.equal_size",
    "byte_lm_rates": "benchmarks.byte_lm.default_rate",
    "byte_lm_long": "benchmarks.byte_lm.long",
    "depth": "benchmarks.depth",
    "closnets": "benchmarks.claims.closnets",
    "neurofabric": "benchmarks.claims.neurofabric",
    "sparse_topologies": "benchmarks.claims.sparse_topologies",
}
"""Name -> module with `run`, `points`, `table` and `figure`."""
