"""The choices of ``training.loss``, a file each."""
