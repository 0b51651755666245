"""Does it learn? Trainings of dense models, their fabrics and their rivals at equal size."""
