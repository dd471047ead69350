"""From rows of text to rows of tokens: reading, formats, cleaning, splitting, tokenizing."""
