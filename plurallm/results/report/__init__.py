"""Reports of a run or a comparison: page, tables, pictures, CSV."""
