"""Keeping a workspace and a machine's cache in order: what is stored is verified, and what nobody needs is dropped."""
