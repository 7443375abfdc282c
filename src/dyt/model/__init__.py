"""What is composed of components: the dynamic model, its blocks, their sites, the state of their tokens."""
