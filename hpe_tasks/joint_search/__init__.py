"""What is chosen by what it does to the joints: the ranges of activations, and which of them stay in float."""
