"""Files that are nearly right: real files, changed by what their formats know, and what reads them."""
