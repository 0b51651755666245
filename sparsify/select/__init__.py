"""Choosing fabrics without data: what they cost and which to take."""
