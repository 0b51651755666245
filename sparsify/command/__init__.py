"""What the command line is made of: its grammar, options as text, checks of output paths."""
