"""From files to tokens: readers, formats, cleaning, splitting, tokenizing, shards."""
