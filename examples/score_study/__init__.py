"""The parts of lesson 5: fabrics, tasks, training in bulk, scores, and what comes of them."""
