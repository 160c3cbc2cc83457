"""The supervisor of a site and what it is made of: children, logs, probes, and the files that declare processes."""
