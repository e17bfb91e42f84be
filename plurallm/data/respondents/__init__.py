"""People's own answers, one row a person: files, codebooks, groups, shares."""
