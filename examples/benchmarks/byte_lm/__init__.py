"""A transformer over bytes that reads the sources of Python's standard library.

The body of each arm (all but embeddings and head) has the same number of weights. Rates of the body
are chosen on files that are neither learned from nor tested on; embeddings and head have one rate
for all arms.
"""
