"""SeaweedFS: its process, the rules and identities in its filer, and the object store that it is to the rest."""
