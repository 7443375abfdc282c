"""What fails while a model is built, whoever's it is, is taken back: nothing is left on the given backbone."""
