"""Files for the config groups of PluralLLM."""
