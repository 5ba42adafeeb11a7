"""Any Pyro program in the library's form: the plate "data" at dim -1, particles to its left."""
