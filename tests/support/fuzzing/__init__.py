"""Files that are nearly right: changes to real files that know what these files are made of, and what must read them."""
