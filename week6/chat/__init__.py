"""A conversation with the policies of a run."""
